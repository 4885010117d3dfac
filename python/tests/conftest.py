"""The stand-in server of the program's own tests, and a folder for each test."""

import configparser
import json
import os
import re
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Server:
    """The stand-in, as ``cargo run --example sandbox -- --serve`` starts it."""

    def __init__(self, process):
        self.process = process
        text = ""
        while "/sandbox/login/v2" not in text:
            line = process.stdout.readline()
            assert line, f"the stand-in ended: {text}"
            text += line
        self.base_url = re.search(r"listens at (\S+)", text)[1]
        self.app_token = re.search(r" -a (\S+) -r ", text)[1]

    def ask(self, path):
        request = urllib.request.Request(f"{self.base_url}/sandbox/{path}", method="POST")
        with urllib.request.urlopen(request) as reply:
            return reply.read().decode().strip()

    def login(self):
        """A new refresh token, as if a user had consented."""
        return self.ask("login")

    def fail_next(self, fault):
        self.ask(f"fault/{fault}")

    def is_live(self, token):
        return self.ask(f"live/{token}") == "yes"

    def count(self, name):
        return json.loads(self.ask("counts"))[name]

    def wait_for_request(self, before):
        """Until there are more requests than before."""
        deadline = time.monotonic() + 30
        while self.count("requests") <= before:
            assert time.monotonic() < deadline, "no request came"


def read(file):
    parser = configparser.ConfigParser()
    parser.read(file, encoding="utf-8")
    return parser


@pytest.fixture(scope="session")
def server():
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--example", "sandbox"], cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    command = [target / "debug/examples/sandbox", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        yield Server(process)
        process.terminate()


@pytest.fixture
def folder(server, tmp_path, monkeypatch):
    """The working directory, with a file that has a fresh login."""
    for name in [name for name in os.environ if name.startswith("FEISHU_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("LANG", "C")
    monkeypatch.setenv("FEISHU_BASE_URL", server.base_url)
    work = tmp_path / "work"
    work.mkdir()
    parser = configparser.ConfigParser()
    parser["TOKEN"] = {"app_access_token": server.app_token, "refresh_token": server.login()}
    file = work / "feishu-config.ini"
    with file.open("w", encoding="utf-8") as text:
        parser.write(text)
    file.chmod(0o600)
    monkeypatch.chdir(work)
    return work
