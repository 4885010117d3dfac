# The program and nothing else, for a scheduled refresh, or to copy into an image of your own:
#
#   COPY --from=ghcr.io/OWNER/feishu-refresh /feishu-refresh /usr/local/bin/
#
# It takes a static binary for each platform from the context: the releases', as .github/workflows/release.yml does; or
# your own, as packaging/image builds it.
FROM scratch
ARG TARGETPLATFORM
COPY $TARGETPLATFORM/feishu-refresh /feishu-refresh
# Empty, and the user's: a new volume here is, too.
COPY --chown=65532:65532 data /data
ENV PATH=/ XDG_STATE_HOME=/data
USER 65532:65532
WORKDIR /data
ENTRYPOINT ["/feishu-refresh"]
