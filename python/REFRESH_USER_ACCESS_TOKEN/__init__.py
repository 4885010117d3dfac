"""The function mode of the Python program that ``feishu-refresh`` replaces, as its documents describe it."""

from __future__ import annotations

import feishu_refresh
from feishu_refresh._program import say


def REFRESH_USER_ACCESS_TOKEN(
    app_access_token: str | None = None, refresh_token: str | None = None, config_file: str | None = None
) -> str | None:
    """Returns a new user access token, or None after a word on stderr. What is None is read from the file."""
    try:
        return feishu_refresh.refresh(app_access_token, refresh_token, config_file).access_token
    except feishu_refresh.Error as error:
        say(f"{error}\n")
        return None
