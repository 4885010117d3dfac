"""The calls of the Python program that this replaces, as its documents show them."""

from conftest import read
from REFRESH_USER_ACCESS_TOKEN import REFRESH_USER_ACCESS_TOKEN


def test_with_arguments(server, folder):
    (folder / "feishu-config.ini").unlink()
    app_token = server.app_token
    refresh_token = server.login()
    user_access_token = REFRESH_USER_ACCESS_TOKEN(app_token, refresh_token)
    assert user_access_token == read(folder / "feishu-config.ini")["TOKEN"]["user_access_token"]
    # As in a script: the same again.
    assert REFRESH_USER_ACCESS_TOKEN(app_token, refresh_token)


def test_with_a_file(folder):
    user_access_token = REFRESH_USER_ACCESS_TOKEN(app_access_token=None, refresh_token=None, config_file=None)
    assert user_access_token == read(folder / "feishu-config.ini")["TOKEN"]["user_access_token"]
    (folder / "feishu-config.ini").rename(folder / "other.ini")
    user_access_token = REFRESH_USER_ACCESS_TOKEN(config_file="other.ini")
    assert user_access_token == read(folder / "other.ini")["TOKEN"]["user_access_token"]


def test_a_failure_is_none_and_a_word_on_stderr(folder, capsys):
    assert REFRESH_USER_ACCESS_TOKEN(refresh_token="ur-of-nobody") is None
    told = capsys.readouterr()
    assert told.out == "" and "feishu-refresh login" in told.err, told
    assert REFRESH_USER_ACCESS_TOKEN(config_file="no/such/folder.ini") is None
