"""Runs the program that is installed with this package, and never kills it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import distributions
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired, call
from threading import Lock, Thread
from typing import Any, Optional, Union

NAME = "feishu-refresh.exe" if os.name == "nt" else "feishu-refresh"


@dataclass(eq=False)
class Error(Exception):
    """Why there is no valid token. The program's README explains kinds and exit codes."""

    message: str  # what failed, and whether anything was lost
    kind: str  # usage, config, reauthorize, temporary, unsaved or unexpected
    exit_code: int  # the program's, 1 to 6; if a signal ended it, 128 and the signal's number
    code: Optional[int] = None  # the server's own, if it refused
    hint: Optional[str] = None  # what to do next
    log_id: Optional[str] = None  # the server's, for the vendor's support
    __module__ = "feishu_refresh"

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


def path() -> str:
    """Where the program is. Raises FileNotFoundError if it is not where it was installed."""
    installed = [file for found in distributions(name="feishu-refresh") for file in found.files or []]
    recorded = [str(file.locate()) for file in installed if file.name == NAME]
    # With --target, pip moves it here after it has recorded another place.
    for candidate in [os.path.join(os.path.dirname(os.path.dirname(__file__)), "bin", NAME), *recorded]:
        if os.path.isfile(candidate):
            return candidate
    raise FileNotFoundError("it is not installed (pip install --force-reinstall feishu-refresh)")


def main() -> int:
    """Is the program: ``python -m feishu_refresh`` takes its options, and ends with its exit code."""
    try:
        if os.name != "nt":
            os.execv(path(), [NAME, *sys.argv[1:]])
        # The console tells the program of Ctrl-C, and it ends when it can.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return call([path(), *sys.argv[1:]])
    except OSError as error:
        sys.exit(f"cannot start feishu-refresh: {error}")


def say(text: str) -> None:
    """Writes to sys.stderr, if that can be written."""
    with suppress(Exception):
        sys.stderr.write(text)


class Run(Thread):
    """One run of the program, where no signal's exception can interrupt. Threads that ask for the same share it."""

    under_way: dict[object, Run] = {}

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        super().__init__(daemon=False)
        self.is_claimed = Lock()  # by its thread, or by who gives it up before that
        self.same = (os.getpid(), *os.stat(".")[1:3], *arguments, *environment.items())
        self.arguments, self.environment, self.signals = arguments, environment, list[int]()
        self.result: Union[tuple[bytes, bytes, int], Error, None] = None

    def run(self) -> None:
        if not self.is_claimed.acquire(blocking=False):
            return
        process: Optional[Popen[bytes]] = None
        try:
            # With close_fds, Popen would wait for any process that another thread forks at this moment.
            command, has_ended = [path(), *self.arguments], False
            process = Popen(command, env=self.environment, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, close_fds=False)
            while self.result is None:
                try:
                    self.result = (*process.communicate(timeout=0.1), process.returncode)
                except TimeoutExpired as so_far:
                    # Such a process holds the pipes open, too: what counts is the program's end.
                    if has_ended:
                        self.result = (so_far.stdout or b"", so_far.stderr or b"", process.returncode)
                    has_ended = process.poll() is not None
                    while self.signals:
                        process.send_signal(self.signals.pop())
        except BaseException as error:
            lost = Error(f"feishu-refresh was lost sight of: {error}; it may have refreshed", "unexpected", 1)
            self.result = not_started(error) if process is None else lost
        Run.under_way.pop(self.same, None)

    def interrupted(self, error: BaseException) -> BaseException:
        # On Windows the console has told the program, and a signal of ours would kill it.
        if os.name != "nt":
            self.signals.append(signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)
        return error


def not_started(error: BaseException) -> Error:
    is_lasting = isinstance(error, (FileNotFoundError, PermissionError, ValueError))
    kind, code = ("config", 3) if is_lasting else ("temporary", 5)
    return Error(f"cannot start feishu-refresh: {error}; nothing was sent", kind, code)


def run(arguments: list[str], secrets: dict[str, str]) -> dict[str, Any]:
    """Runs the program to its end, and returns the object that it prints. Raises :class:`Error`.

    What a signal raises here goes on to the program as a signal, and is raised once that has ended.
    """
    mine = shared = Run(arguments, {**os.environ, **secrets})
    raised: Optional[BaseException] = None
    try:
        shared = Run.under_way.setdefault(mine.same, mine)
        if shared is mine:
            mine.start()
    except BaseException as error:
        if mine.is_claimed.acquire(blocking=False):
            # There are no more threads, as in an interpreter that ends; or a signal came first.
            mine.result = not_started(error)
            Run.under_way.pop(mine.same, None)
            raised = None if isinstance(error, RuntimeError) else error
        else:
            raised = shared.interrupted(error)
    while shared.result is None:
        try:
            # Not a lock: it may stay locked if a signal interrupts the wait for it.
            time.sleep(0.005)
        except BaseException as error:
            raised = shared.interrupted(error)
    if isinstance(shared.result, Error):
        raise raised or shared.result
    stdout, stderr, code = shared.result
    text = stderr.decode("utf-8", "replace")
    told, mark, failure = text.rpartition('{"error":') if not stdout and '{"error":' in text else (text, "", "")
    if told and shared is mine:
        say(told)
    if raised is not None:
        raise raised
    if mark:
        fields = json.loads(mark + failure)["error"]
        raise Error(*(fields.get(name) for name in Error.__dataclass_fields__))
    if code != 0 or not stdout:
        how, code = (f"by signal {-code}", 128 - code) if code < 0 else (f"with code {code}", code)
        raise Error(f"feishu-refresh ended {how}, and did not say why", "unexpected", code or 1)
    result: dict[str, Any] = json.loads(stdout)
    return result
