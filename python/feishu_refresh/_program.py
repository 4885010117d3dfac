"""Runs the program that is installed with this package, and never kills it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib.metadata import PackageNotFoundError, files
from typing import Tuple

NAME = "feishu-refresh.exe" if os.name == "nt" else "feishu-refresh"
Result = Tuple[int, bytes, str]  # the exit code, stdout, and the line of JSON that tells a failure


def path() -> str:
    """Where the program is. Raises FileNotFoundError if it is not where it was installed."""
    try:
        recorded = [str(file.locate()) for file in files("feishu-refresh") or [] if file.name == NAME]
    except PackageNotFoundError:
        recorded = []
    # With --target, pip moves it after it has recorded it.
    for candidate in [*recorded, os.path.join(os.path.dirname(os.path.dirname(__file__)), "bin", NAME)]:
        if os.path.isfile(candidate):
            return candidate
    raise FileNotFoundError("it is not installed (pip install --force-reinstall feishu-refresh)")


def main() -> int:
    """Is the program: ``python -m feishu_refresh`` takes its options, and ends with its exit code."""
    if os.name != "nt":
        os.execv(path(), [NAME, *sys.argv[1:]])
    # The console tells the program of Ctrl-C, and it ends when it can.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return subprocess.call([path(), *sys.argv[1:]])


#: Runs that have not ended, by all that makes them the same; each with its process, once it has one.
_under_way: dict[object, tuple[Future[Result], list[subprocess.Popen[bytes]]]] = {}


def run(arguments: list[str], secrets: dict[str, str]) -> Result:
    """Runs the program to its end. Threads that ask for the same meanwhile share that run.

    What it says beside its failure goes to sys.stderr. What a signal raises here is raised once it has ended.
    """
    environment = {**os.environ, **secrets}
    same = (os.getpid(), os.getcwd(), *arguments, *environment.items())

    def share() -> Result:
        mine: tuple[Future[Result], list[subprocess.Popen[bytes]]] = (Future(), [])
        future, processes = shared = _under_way.setdefault(same, mine)
        if shared is mine:
            try:
                future.set_result(_work(arguments, environment, processes))
            except BaseException as error:
                future.set_exception(error)
            finally:
                del _under_way[same]
        return future.result()

    raised = None
    # On a thread of its own, which no signal's exception can interrupt.
    with ThreadPoolExecutor(1) as executor:
        ended = executor.submit(share)
        while not ended.done():
            try:
                wait([ended])
            except BaseException as exception:
                raised = exception
                # On Windows the console has told the program, and a signal of ours would kill it.
                for process in _under_way.get(same, ((), []))[1] if os.name != "nt" else []:
                    process.send_signal(signal.SIGINT if isinstance(raised, KeyboardInterrupt) else signal.SIGTERM)
    if raised is not None:
        raise raised
    return ended.result()


def _work(arguments: list[str], environment: dict[str, str], processes: list[subprocess.Popen[bytes]]) -> Result:
    pipe = subprocess.PIPE
    try:
        command = [path(), *arguments]
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    except (OSError, ValueError) as error:
        message = f"cannot start feishu-refresh: {error}; nothing was sent"
        return 3, b"", json.dumps({"error": {"message": message, "kind": "config", "exit_code": 3}})
    processes.append(process)
    stdout, stderr = process.communicate()
    lines = stderr.decode("utf-8", "replace").splitlines()
    failure = lines.pop() if lines and lines[-1].startswith('{"error":') else ""
    if lines and sys.stderr is not None:
        print(*lines, sep="\n", file=sys.stderr)
    return process.returncode, stdout, failure
