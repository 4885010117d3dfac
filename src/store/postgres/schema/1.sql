-- feishu-refresh keeps logins here. Secrets are sealed by the program: the database sees none.
CREATE SCHEMA IF NOT EXISTS feishu_refresh;
COMMENT ON SCHEMA feishu_refresh IS 'Logins of feishu-refresh; see its docs/postgres.md';

CREATE TABLE IF NOT EXISTS feishu_refresh.meta (
    is_only_row boolean PRIMARY KEY DEFAULT true CHECK (is_only_row),
    version     integer NOT NULL,
    store_id    uuid    NOT NULL DEFAULT gen_random_uuid()
);
COMMENT ON TABLE  feishu_refresh.meta IS 'One row about these tables';
COMMENT ON COLUMN feishu_refresh.meta.version  IS 'Raised by: feishu-refresh store init';
COMMENT ON COLUMN feishu_refresh.meta.store_id IS 'Names this store to the hosts that keep a journal for it';

CREATE TABLE IF NOT EXISTS feishu_refresh.app (
    app_id                      text NOT NULL,
    service                     text NOT NULL,
    app_secret                  text,
    app_ticket                  text,
    app_access_token            text,
    app_access_token_expires_at timestamptz,
    PRIMARY KEY (app_id, service)
) WITH (fillfactor = 50);
COMMENT ON TABLE  feishu_refresh.app IS 'Apps, each shared by its logins';
COMMENT ON COLUMN feishu_refresh.app.service          IS 'The host that knows the app';
COMMENT ON COLUMN feishu_refresh.app.app_secret       IS 'Sealed';
COMMENT ON COLUMN feishu_refresh.app.app_ticket       IS 'Sealed';
COMMENT ON COLUMN feishu_refresh.app.app_access_token IS 'Sealed; fetched by a run, used by all';

CREATE TABLE IF NOT EXISTS feishu_refresh.pace (
    app_id    text NOT NULL,
    service   text NOT NULL,
    next_slot timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (app_id, service),
    FOREIGN KEY (app_id, service) REFERENCES feishu_refresh.app ON DELETE CASCADE
) WITH (fillfactor = 50);
COMMENT ON TABLE  feishu_refresh.pace IS 'Whose turn it is: all runs together keep to the limits of each app';
COMMENT ON COLUMN feishu_refresh.pace.next_slot IS 'When the next request for this app may go out';

CREATE TABLE IF NOT EXISTS feishu_refresh.login (
    name                        text PRIMARY KEY,
    state                       text NOT NULL DEFAULT 'empty'
                                CHECK (state IN ('empty', 'held', 'live', 'refused')),
    api                         text,
    base_url                    text,
    accounts_url                text,
    token_url                   text,
    app_id                      text,
    service                     text,
    app_access_token            text,
    app_access_token_expires_at timestamptz,
    scope                       text,
    access_token                text,
    access_expires_at           timestamptz,
    refresh_token               text,
    refresh_expires_at          timestamptz,
    refresh_fingerprint         text,
    previous_fingerprint        text,
    older_fingerprints          text[] NOT NULL DEFAULT '{}',
    refreshed_at                timestamptz,
    lease_id                    text,
    lease_holder                text,
    lease_until                 timestamptz,
    generation                  bigint NOT NULL DEFAULT 0,
    sent_fingerprint            text,
    sent_by                     text,
    sent_at                     timestamptz,
    unanswered_fingerprint      text,
    unanswered_by               text,
    unanswered_at               timestamptz,
    refused_at                  timestamptz,
    refusal                     text,
    failures                    integer NOT NULL DEFAULT 0,
    retry_at                    timestamptz,
    FOREIGN KEY (app_id, service) REFERENCES feishu_refresh.app
) WITH (fillfactor = 50);
COMMENT ON TABLE  feishu_refresh.login IS 'Logins; a refresh token works once';
COMMENT ON COLUMN feishu_refresh.login.state IS 'empty: a login is under way; held: store import is under way; live; refused: a person must log in again';
COMMENT ON COLUMN feishu_refresh.login.app_access_token       IS 'Sealed; one that came along from a file, as long as its app has none';
COMMENT ON COLUMN feishu_refresh.login.access_token           IS 'Sealed';
COMMENT ON COLUMN feishu_refresh.login.refresh_token          IS 'Sealed';
COMMENT ON COLUMN feishu_refresh.login.refresh_fingerprint    IS 'First 16 hex digits of the SHA-256 of the refresh token';
COMMENT ON COLUMN feishu_refresh.login.previous_fingerprint   IS 'That of the token before it, which is spent';
COMMENT ON COLUMN feishu_refresh.login.older_fingerprints     IS 'Those before that one, the latest first; at most sixteen';
COMMENT ON COLUMN feishu_refresh.login.lease_id               IS 'The run that alone may spend the token; none if nobody may';
COMMENT ON COLUMN feishu_refresh.login.lease_holder           IS 'Where that run is';
COMMENT ON COLUMN feishu_refresh.login.lease_until            IS 'When another run may take its place';
COMMENT ON COLUMN feishu_refresh.login.generation             IS 'Counts the leases';
COMMENT ON COLUMN feishu_refresh.login.sent_fingerprint       IS 'The token that the holder of the lease sends; none once it was answered';
COMMENT ON COLUMN feishu_refresh.login.sent_by                IS 'Who sent a token last, or was about to';
COMMENT ON COLUMN feishu_refresh.login.unanswered_fingerprint IS 'A token that a run sent which then died: nobody knows what came of it';
COMMENT ON COLUMN feishu_refresh.login.refused_at             IS 'When the server refused the token that stands here';
COMMENT ON COLUMN feishu_refresh.login.refusal                IS 'In the words of the run that was refused';
COMMENT ON COLUMN feishu_refresh.login.failures               IS 'Refusals since the last token came';
COMMENT ON COLUMN feishu_refresh.login.retry_at               IS 'When --all tries a login again that was refused';

INSERT INTO feishu_refresh.meta (version) VALUES (1) ON CONFLICT DO NOTHING;
