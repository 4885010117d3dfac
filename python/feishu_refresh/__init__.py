"""Renews a Feishu (Lark) user access token, by the program ``feishu-refresh`` that is installed with this package.

Promises: a token is returned only after the token pair is saved. Secrets reach the program by its environment, never
by arguments, which other users can see. Nothing here kills the program: what a signal raises (Ctrl-C) waits until a
pair that is under way is saved.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Optional, Union

from ._program import Error, main, run

__all__ = ["Duration", "Error", "Path", "Token", "main", "refresh"]

Path = Union[str, "os.PathLike[str]"]
Duration = Union[float, str, timedelta]  # seconds, or what the options take: "90s", "10m", "1h", "2d"
SECRETS = ("app_access_token", "refresh_token", "app_secret", "app_ticket", "store", "store_key")


@dataclass(frozen=True)
class Token:
    """A user access token that is valid and saved. What the server did not say is None. ``repr`` shows no secret."""

    profile: str  # the section of the file, or the name of the login in the store
    api: str  # the token endpoint: v1, oidc, v2, v3 or 115
    access_token: str = field(repr=False)
    refresh_token: Optional[str] = field(repr=False)  # what the next refresh spends
    expires_at: Optional[datetime]  # when the access token ends; aware, in UTC
    refresh_expires_at: Optional[datetime]  # when the refresh token ends
    scope: Optional[str]  # scopes, separated by spaces
    refreshed: bool  # whether this call spent a refresh token; if not, the saved token is still valid


def refresh(
    app_access_token: Optional[str] = None, refresh_token: Optional[str] = None, config_file: Optional[Path] = None, *,
    profile: Optional[str] = None, min_ttl: Optional[Duration] = None, scope: Optional[str] = None,
    store: Optional[str] = None, store_key: Optional[str] = None, store_key_file: Optional[Path] = None,
    app_id: Optional[str] = None, app_secret: Optional[str] = None, app_ticket: Optional[str] = None,
    api: Optional[str] = None, base_url: Optional[str] = None, lark: bool = False,
    accounts_url: Optional[str] = None, token_url: Optional[str] = None, ca_cert: Optional[Path] = None,
    timeout: Optional[Duration] = None, retries: Optional[int] = None, max_wait: Optional[Duration] = None,
    lock_timeout: Optional[Duration] = None,
) -> Token:  # fmt: skip
    """Spends the refresh token, saves the new token pair, and returns it.

    Each argument is the program's option of that name (``feishu-refresh --help``); what is None comes from the
    environment, else from the file. With ``min_ttl``, a saved token that is valid for that long will do. A call that
    begins while another is under way shares its new token. Warnings go to ``sys.stderr``. Raises :class:`Error` if
    there is no valid token, and what a signal raises meanwhile (KeyboardInterrupt) once the program has ended.
    """
    given = {name: value for name, value in locals().items() if value is not None and value is not False}
    if "store" in given and "config_file" in given:
        raise Error("store and config_file name two places for one login; nothing was sent", "usage", 2)
    secrets, arguments = {}, ["--output=json"]
    for name, value in given.items():
        if name in SECRETS:
            if value == "":  # the program would take it for one that is not set
                raise Error(f"the {name} given is empty; nothing was sent", "config", 3)
            secrets[f"FEISHU_{name.upper()}"] = value
        else:
            value = value.total_seconds() if isinstance(value, timedelta) else value
            value = os.fsdecode(value) if isinstance(value, (bytes, os.PathLike)) else value
            arguments.append(f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}"))
    token = run(arguments, secrets)
    for end in ("expires_at", "refresh_expires_at"):
        token[end] = token[end] and datetime.fromisoformat(token[end].replace("Z", "+00:00"))  # 3.10 knows no Z
    return Token(**{name: token[name] for name in Token.__dataclass_fields__})
