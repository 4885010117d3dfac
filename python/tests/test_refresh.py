"""What a Python program gets of the package: tokens, errors, and no login lost."""

import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import feishu_refresh
import pytest
from conftest import ROOT, read
from feishu_refresh import Error, _program, refresh
from REFRESH_USER_ACCESS_TOKEN import REFRESH_USER_ACCESS_TOKEN


def saved(folder, key="refresh_token"):
    return read(folder / "feishu-config.ini")["TOKEN"][key]


def test_a_refresh_returns_what_is_saved(server, folder):
    before = datetime.now(timezone.utc)
    token = refresh()
    assert token.access_token == saved(folder, "user_access_token")
    assert token.refresh_token == saved(folder) and server.is_live(token.refresh_token)
    assert timedelta(minutes=90) < token.expires_at - before < timedelta(hours=3)
    assert token.refresh_expires_at > token.expires_at
    assert (token.profile, token.api, token.refreshed) == ("TOKEN", "v1", True)
    assert token.access_token not in repr(token) and token.refresh_token not in repr(token)

    for min_ttl in ("10m", 600, timedelta(minutes=10)):
        again = refresh(config_file=folder / "feishu-config.ini", min_ttl=min_ttl)
        assert (again.access_token, again.refreshed) == (token.access_token, False)
    assert refresh(min_ttl=timedelta(days=1)).refreshed


def test_arguments_are_the_options_of_that_name(server, folder):
    token = refresh(
        server.app_token,
        server.login(),
        "other.ini",
        profile="mine",
        base_url=server.base_url,
        api="v1",
        retries=0,
        timeout=timedelta(seconds=9.5),
        lock_timeout="1m",
    )
    assert read(folder / "other.ini")["mine"]["user_access_token"] == token.access_token
    assert token.profile == "mine"
    for wrong in ({"profile": ""}, {"api": "v9"}, {"min_ttl": "soon"}, {"store": "x", "config_file": "y"}):
        with pytest.raises(Error) as failure:
            refresh(**wrong)
        assert failure.value.exit_code in (2, 3), wrong
        assert "nothing was sent" in failure.value.message
    with pytest.raises(Error, match="begins with neither"):
        refresh(token_url="ftp://x", lark=True)


def test_an_empty_secret_is_a_mistake_and_not_the_files(folder):
    before = saved(folder)
    for name in ("app_access_token", "refresh_token", "app_secret", "app_ticket", "store", "store_key"):
        with pytest.raises(Error) as failure:
            refresh(**{name: ""})
        assert (failure.value.kind, failure.value.exit_code) == ("config", 3)
    assert saved(folder) == before


def test_an_error_says_what_to_do(server, folder, capfd):
    with pytest.raises(Error) as failure:
        refresh(refresh_token="ur-of-nobody")
    error = failure.value
    assert (error.kind, error.exit_code, error.code) == ("reauthorize", 4, 20026)
    assert "feishu-refresh login" in error.hint and error.hint in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.code, copy.log_id) == (str(error), error.code, error.log_id)
    assert "ur-of-nobody" not in str(error) + repr(error)
    assert capfd.readouterr().err == ""

    with pytest.raises(Error) as failure:
        refresh(refresh_token="a\0b")
    assert failure.value.exit_code == 3


def test_warnings_go_to_stderr(server, folder, capsys):
    server.fail_next("no-refresh-token")
    refresh()
    told = capsys.readouterr()
    assert told.out == "" and "the old one stays" in told.err, told


def test_ten_threads_share_one_new_token(server, folder):
    rotations = server.count("rotations")
    gate = threading.Barrier(10)
    server.fail_next("delay")

    def work(_):
        gate.wait()
        return refresh().access_token

    with ThreadPoolExecutor(10) as threads:
        tokens = set(threads.map(work, range(10)))
    assert tokens == {saved(folder, "user_access_token")}
    assert server.count("rotations") == rotations + 1
    assert server.count("spent_tokens_sent") == 0


def test_an_interrupt_while_the_thread_starts_waits_for_the_save(server, folder, monkeypatch):
    start = _program.Run.start

    def interrupted(thread):
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(_program.Run, "start", interrupted)
    before = saved(folder)
    server.fail_next("delay")
    with pytest.raises(KeyboardInterrupt):
        refresh()
    # Stopped before it was sent, or saved.
    server.ask("settled")
    assert server.is_live(saved(folder)) and _program.Run.under_way == {}, before


@pytest.mark.skipif(os.name == "nt", reason="signals are Unix's")
def test_a_failure_is_told_where_no_child_is_waited_for(folder):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(Error) as failure:
            refresh(profile="nobody")
        assert (failure.value.kind, failure.value.exit_code) == ("config", 3)
        assert refresh().refreshed
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_what_cannot_be_said_costs_no_token(server, folder, monkeypatch):
    class Deaf:
        def write(self, _):
            raise OSError(28, "no space left")

    class Curious:
        def write(self, text):
            refresh(min_ttl="10m")

    for stderr in (None, Deaf(), Curious(), io.BytesIO()):
        monkeypatch.setattr(sys, "stderr", stderr)
        # With the warning that this token is spent now.
        assert refresh(refresh_token=server.login()).refreshed
        assert REFRESH_USER_ACCESS_TOKEN(refresh_token="ur-of-nobody") is None


def test_where_there_is_no_folder_or_thread_nothing_is_lost(server, folder, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert refresh(config_file=folder / "feishu-config.ini").refreshed
    os.chdir(folder)

    def no_thread(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(Error, match="cannot start .*; nothing was sent") as failure:
            refresh()
        assert (failure.value.kind, failure.value.exit_code) == ("temporary", 5)
    assert refresh().refreshed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_another_thread_forks_is_not_waited_for(folder):
    """Such a process holds what the program's pipes were when it began."""
    script = (
        "import os, threading, time, feishu_refresh\n"
        "over = threading.Event()\n"
        "def fork():\n"
        "    while not over.wait(0.001):\n"
        "        if os.fork() == 0:\n"
        "            time.sleep(20)\n"
        "            os._exit(0)\n"
        "thread = threading.Thread(target=fork)\n"
        "thread.start()\n"
        "for _ in range(5): feishu_refresh.refresh(min_ttl='10m')\n"
        "over.set()\n"
        "print('done', flush=True)\n"
        "os._exit(0)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    try:
        before = time.monotonic()
        assert process.stdout.readline() == b"done\n"
        assert time.monotonic() - before < 15
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def start(program, server):
    """A Python program whose refresh is with the server, which takes its time."""
    server.fail_next("delay")
    requests = server.count("requests")
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    server.wait_for_request(requests)
    return process


def wait_until_taken(process):
    """Until the signal is not pending any more, so that the next one is another."""
    status = Path(f"/proc/{process.pid}/status")
    while status.exists() and "ShdPnd:\t0000000000000000" not in status.read_text():
        pass


PROGRAM = "import feishu_refresh; feishu_refresh.refresh()"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_secret_stands_in_the_process_list(server, folder):
    refresh_token = server.login()
    process = start(PROGRAM.replace("refresh()", f"refresh({server.app_token!r}, {refresh_token!r})"), server)
    threads = Path(f"/proc/{process.pid}/task").iterdir()
    children = [child for thread in threads for child in (thread / "children").read_text().split()]
    arguments = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    assert len(arguments) == 1 and b"--output=json" in arguments[0], arguments
    assert refresh_token.encode() not in arguments[0] and server.app_token.encode() not in arguments[0]
    assert process.wait() == 0


@pytest.mark.skipif(os.name == "nt", reason="signals are Unix's")
@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_waits_for_the_save(server, folder, times):
    process = start(PROGRAM, server)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        wait_until_taken(process)
    told = process.communicate()[1]
    assert process.returncode == -signal.SIGINT, told
    assert told.rstrip().endswith("KeyboardInterrupt"), told
    assert server.is_live(saved(folder)), "the pair is lost"
    assert sorted(os.listdir(folder)) == ["feishu-config.ini"]


@pytest.mark.skipif(os.name == "nt", reason="signals are Unix's")
def test_what_a_signal_handler_raises_waits_for_the_save(server, folder):
    alarm = "import signal\ndef late(*_): raise TimeoutError\nsignal.signal(signal.SIGALRM, late)\n"
    process = start(alarm + PROGRAM, server)
    process.send_signal(signal.SIGALRM)
    told = process.communicate()[1]
    assert (process.returncode, told.rstrip().endswith("TimeoutError")) == (1, True), told
    assert server.is_live(saved(folder)), "the pair is lost"


@pytest.mark.skipif(os.name == "nt", reason="signals are Unix's")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_the_end_of_python_does_not_end_the_save(server, folder, name):
    before = saved(folder)
    process = start(PROGRAM, server)
    process.send_signal(signal.Signals[name])
    process.communicate()
    server.ask("settled")
    assert saved(folder) != before and server.is_live(saved(folder)), "the pair is lost"


def test_python_is_the_program_with_dash_m(server, folder):
    def run(*arguments):
        command = [sys.executable, "-m", "feishu_refresh", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    assert run("--version").stdout.startswith("feishu-refresh ")
    assert run().stdout.strip() == saved(folder, "user_access_token")
    assert run("--no-such-option").returncode == 2


def test_the_recipes_for_python_work(folder):
    blocks = (ROOT / "docs/recipes.md").read_text(encoding="utf-8").split("\n```python\n")[1:]
    assert len(blocks) == 2, "a block is not tried"
    for block in blocks:
        block = block.split("\n```")[0]
        run = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)
        assert (run.returncode, run.stderr) == (0, ""), block
        told = saved(folder, "user_access_token") if "print" in block else ""
        assert run.stdout.startswith(told)


def test_a_program_that_is_not_there_is_an_error(folder, monkeypatch, capsys):
    monkeypatch.setattr(_program, "NAME", "no-such-program")
    with pytest.raises(Error, match="not installed") as failure:
        feishu_refresh.refresh()
    assert failure.value.exit_code == 3
