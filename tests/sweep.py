#!/usr/bin/env python3
"""Kill sweeps: a run dies at each system call that it makes once it has read a reply, and the next run
shows what was lost. What may be lost is a reply that was not read, or not yet recorded; the trace
of the dead run says which. Anything else that is lost, wrong or left behind makes the exit code 1.

    cargo build --release && cargo build --example sandbox
    python3 tests/sweep.py                      # every call, once as a kill and as errors
    python3 tests/sweep.py --double             # and each of the next run's calls after each kill
    python3 tests/sweep.py --scenario rename --at fsync:signal=KILL:when=1 --at unlink:error=EIO:when=1

The last form is one trial in strace's words, an `--at` for each run; its scene is shown and kept.
"""

import argparse
import collections
import concurrent.futures
import os
import re
import shutil
import sys
import tempfile
import threading
import types

from sweep_scene import FILE, REPLY, WAKE_UP, Scene, StandIn

# A kill finds the same scene before each of the calls between two of these.
CHANGING = r"p?write|recvfrom|fallocate|ftruncate|fsync|rename|unlink|mkdir|f?ch(own|mod)|exit_group|openat.*O_CREAT"
FAILING = r"(pwrite64|write|fsync|rename\w*|ftruncate|fallocate|openat|unlink\w*|mkdir|fchmod) "
KILL = "{}:signal=KILL:when={}"


def scenario(first="", after=None, text="login", links=1, user=None, has_state=True):
    """What is run first, and after that; what the file is like; its links; whose all of it is, in a
    folder that only root can write."""
    commands = (first, first if after is None else after)
    return types.SimpleNamespace(commands=commands, text=text, links=links, user=user, has_state=has_state)


FLAGS = "-a {app_token} --base-url {base}"
SCENARIOS = {
    "rename": scenario(),
    "rename-without-home": scenario(has_state=False),
    "in-place": scenario(links=2),
    "state-folder": scenario(user=54321),
    # The same command again, as cron gives it; and one without the token.
    "new-token": scenario("-r {new} --base-url {base}"),
    "new-token-once": scenario("-r {new} --base-url {base}", ""),
    "new-file": scenario(f"{FLAGS} -r {{new}}", text=None),
    "new-file-once": scenario(f"{FLAGS} -r {{new}}", FLAGS, text=None),
    "login": scenario("login --paste", "", text="app"),
    "all": scenario("--all --rate 0", text="many"),
}


def points_of(calls, start, wanted=""):
    """Calls from `start` on, as strace counts them: each thread's calls of one name. Where threads run
    side by side, a count is not always the same call; together they are the whole range."""
    counts, points = collections.Counter(), {}
    for index, call in enumerate(calls):
        counts[call.thread, call.name] += 1
        if index >= start and re.match(wanted, call.text) and WAKE_UP not in call.text:
            points[call.name, counts[call.thread, call.name]] = None
    return list(points)


def attempt(scenario, stand_in, injections, is_shown=False):
    """One trial: a run for each injection, and an undisturbed one."""
    scene = Scene(scenario, stand_in, injections)
    for number, injection in enumerate(injections):
        old = scene.text()
        run = scene.run(number, injection)
        if is_shown:
            scene.show(injection, run)
        scene.check_kill(run, old) if "signal=KILL" in injection else scene.check_error(run)
    last = scene.run(len(injections), is_traced=False)
    scene.judge(last)
    scene.show("in the end", last) if is_shown else shutil.rmtree(scene.root)
    return scene


def calls_after(scenario, stand_in, kills):
    """The calls of a run that follows these kills, and where in them something is at stake: from the
    reply on in a first run; else from where it comes to the file."""
    scene = Scene(scenario, stand_in)
    calls = [scene.run(number, kill) for number, kill in enumerate([*kills, None])][-1].calls
    shutil.rmtree(scene.root)
    starts = (index for index, call in enumerate(calls) if re.match(f".*{FILE}" if kills else REPLY, call.text))
    return calls, next(starts) + (not kills)


def failures(points):
    """Each call fails, alone and with those of its name up to each later one, and with all. Not so those
    of `write`: what is said on stderr is one, too."""
    for name, first in points:
        later = [f"..{count}" for other, count in points if other == name and count > first]
        for end in [""] if name == "write" else ["", *later, "+"]:
            yield from ([f"{name}:error={error}:when={first}{end}"] for error in ("EIO", "ENOSPC"))


def report(name, sweep, scenes):
    lost = [scene for scene in scenes if scene.lost]
    wrong = [scene for scene in scenes if scene.wrong and not scene.lost]
    before = sum(scene.is_lost_before and not scene.lost for scene in scenes)
    missed, runs = sum(not scene.was_reached for scene in scenes), sum(len(scene.injections) + 1 for scene in scenes)
    counts = f"{len(scenes):6} {runs:6} {missed:6} {before:11} {len(lost):10} {len(wrong):5}"
    print(f"{name:20} {sweep:7} {counts}", flush=True)
    for scene in lost + wrong:
        at = " ".join(f"--at {injection}" for injection in scene.injections)
        print(f"  {'LOST' if scene.lost else 'WRONG'}: --scenario {name} {at}: {scene.lost + scene.wrong}")
    return bool(lost or wrong)


def sweeps_of(scenario, options, each):
    """The trials of each sweep."""
    if options.at:
        return {"at": [options.at]}
    follow = lambda *after: calls_after(scenario, *after)
    [(calls, start)] = each(follow, [[]])
    sweeps = {"kill": [[KILL.format(*point)] for point in points_of(calls, start)]}
    sweeps["error"] = list(failures(points_of(calls, start, FAILING)))
    if options.double:
        wanted = "" if options.every_call else CHANGING
        firsts = [[KILL.format(*point)] for point in points_of(calls, start, wanted)]
        pairs = zip(firsts, [points_of(*found, wanted) for found in each(follow, firsts)])
        sweeps["double"] = [[*first, KILL.format(*point)] for first, points in pairs for point in points]
    return {sweep: trials[options.sample // 2 :: options.sample] for sweep, trials in sweeps.items()}


def main():
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=1, metavar="K", help="only every K-th trial, as in CI")
    parser.add_argument("--double", action="store_true", help="kill the next run, too, where it changes something")
    parser.add_argument("--every-call", action="store_true", help="with --double: at each call")
    parser.add_argument("--only", choices=["kill", "error", "double"], help="this sweep alone")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS)
    parser.add_argument("--at", action="append", metavar="INJECTION", help="one trial, with this; once a run")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--binary", default=f"{target}/release/feishu-refresh")
    parser.add_argument("--sandbox", default=f"{target}/debug/examples/sandbox")
    options = parser.parse_args()
    names = options.scenario or [name for name in SCENARIOS if os.geteuid() == 0 or not SCENARIOS[name].user]
    own, is_bad = threading.local(), False
    with tempfile.TemporaryDirectory(prefix="sweep-program-") as folder:
        # A copy that every user can run, and that no build replaces meanwhile.
        os.chmod(folder, 0o755)
        binary = shutil.copy(options.binary, folder)
        start = lambda: setattr(own, "stand_in", StandIn(options.sandbox, binary, folder))
        with concurrent.futures.ThreadPoolExecutor(options.jobs, initializer=start) as pool:
            each = lambda work, items: list(pool.map(lambda item: work(own.stand_in, item), items))
            print("scenario             sweep   trials   runs missed lost before LOST AFTER WRONG")
            for name in names:
                work = lambda *trial: attempt(SCENARIOS[name], *trial, is_shown=bool(options.at))
                for sweep, trials in sweeps_of(SCENARIOS[name], options, each).items():
                    if sweep in (options.only, "at") or not options.only:
                        is_bad |= report(name, sweep, each(work, trials))
    sys.exit(is_bad)


if __name__ == "__main__":
    main()
