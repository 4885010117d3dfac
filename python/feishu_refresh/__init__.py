"""Renews a Feishu (Lark) user access token, by the program ``feishu-refresh`` that is installed with this package.

Promises: a token is returned only after the token pair is saved. Secrets reach the program by its environment, never
by arguments, which other users can see. Nothing here kills the program: what a signal raises (Ctrl-C) waits until a
pair that is under way is saved.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Union

from ._program import main, run

__all__ = ["Duration", "Error", "Token", "main", "refresh"]

Duration = Union[float, str, timedelta]  # seconds, or what the options take: "90s", "10m", "1h", "2d"
SECRETS = ("app_access_token", "refresh_token", "app_secret", "app_ticket", "store", "store_key")


@dataclass(frozen=True)
class Token:
    """A user access token that is valid and saved. What the server did not say is None. ``repr`` shows no secret."""

    profile: str  # the section of the file, or the name of the login in the store
    api: str  # the token endpoint: v1, oidc, v2, v3 or 115
    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)  # what the next refresh spends
    expires_at: datetime | None  # when the access token ends; aware, in UTC
    refresh_expires_at: datetime | None  # when the refresh token ends
    scope: str | None  # scopes, separated by spaces
    refreshed: bool  # whether this call spent a refresh token; if not, the saved token is still valid


@dataclass(eq=False)
class Error(Exception):
    """Why there is no valid token. The program's README explains kinds and exit codes."""

    message: str  # what failed, and whether anything was lost
    kind: str  # usage, config, reauthorize, temporary, unsaved or unexpected
    exit_code: int  # the program's, 1 to 6; if a signal ended it, 128 and the signal's number
    code: int | None = None  # the server's own, if it refused
    hint: str | None = None  # what to do next
    log_id: str | None = None  # the server's, for the vendor's support

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


def refresh(
    app_access_token: str | None = None, refresh_token: str | None = None,
    config_file: str | os.PathLike[str] | None = None, *, profile: str | None = None, min_ttl: Duration | None = None,
    store: str | None = None, store_key: str | None = None, store_key_file: str | os.PathLike[str] | None = None,
    app_id: str | None = None, app_secret: str | None = None, app_ticket: str | None = None,
    api: str | None = None, scope: str | None = None, lark: bool | None = None,
    base_url: str | None = None, accounts_url: str | None = None, token_url: str | None = None,
    ca_cert: str | os.PathLike[str] | None = None, timeout: Duration | None = None, retries: int | None = None,
    max_wait: Duration | None = None, lock_timeout: Duration | None = None,
) -> Token:  # fmt: skip
    """Spends the refresh token, saves the new token pair, and returns it.

    Each argument is the program's option of that name (``feishu-refresh --help``). What is None comes from the
    environment, else from the file. With ``min_ttl``, a saved token that is valid for that long will do. Threads and
    processes that call this at once share one new token. Warnings go to ``sys.stderr``.

    Raises :class:`Error` if there is no valid token, and what a signal raises meanwhile, like KeyboardInterrupt, once
    the program has ended.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    if "store" in given and "config_file" in given:
        raise Error("store and config_file name two places for one login; nothing was sent", "usage", 2)
    secrets, arguments = {}, ["--output=json"]
    for name, value in given.items():
        if name in SECRETS:
            if value == "":
                # The program would take an empty variable for one that is not set.
                raise Error(f"the {name} given is empty; nothing was sent", "config", 3)
            secrets[f"FEISHU_{name.upper()}"] = value
        elif name == "lark":
            arguments += ["--lark"] if value else []
        else:
            value = value.total_seconds() if isinstance(value, timedelta) else value
            value = os.fspath(value) if isinstance(value, os.PathLike) else value
            arguments.append(f"--{name.replace('_', '-')}={value}")
    code, result, failure = run(arguments, secrets)
    if failure:
        told = json.loads(failure)["error"]
        raise Error(*(told.get(name) for name in Error.__dataclass_fields__))
    if code != 0:
        how, code = (f"was ended by signal {-code}", 128 - code) if code < 0 else (f"ended with code {code}", code)
        raise Error(f"feishu-refresh {how}, and did not say why", "unexpected", code)
    token = json.loads(result)
    for end in ("expires_at", "refresh_expires_at"):
        # Before Python 3.11, fromisoformat does not know Z.
        token[end] = token[end] and datetime.fromisoformat(token[end].replace("Z", "+00:00"))
    return Token(**{name: token[name] for name in Token.__dataclass_fields__})
