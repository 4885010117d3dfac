#!/usr/bin/env python3
"""What a run costs, side by side with other ways to do the same, against the stand-in on loopback.

    cargo build --release && cargo build --release --example sandbox --example floor
    python3 benches/measure.py one             # one refresh, beside curl and Python programs
    python3 benches/measure.py profiles        # many profiles in one run
    python3 benches/measure.py store           # a login in PostgreSQL, beside psql
    python3 benches/measure.py limits          # the documented limits, kept for more than a minute

Needs Python 3, hyperfine, curl, GNU time and strace; for the Python programs `pip install requests lark-oapi`, in the
interpreter that PYTHON names. Each figure is a median of several runs.
"""

import contextlib
import glob
import json
import os
import re
import shlex
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RELEASE = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release")
PROGRAM = os.path.join(RELEASE, "feishu-refresh")


class Sandbox:
    """A stand-in server in its own process."""

    def __init__(self, tls):
        arguments = [os.path.join(RELEASE, "examples", "sandbox"), "--serve"] + ["--tls"] * tls
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        said = ""
        while "/sandbox/login/v2" not in said:
            said += self.process.stdout.readline()
        self.base = re.search(r"listens at (\S+)", said).group(1)
        self.folder = re.search(r"cd '(.*)'", said).group(1)
        self.ca = os.path.join(self.folder, "ca.pem")
        self.context = ssl.create_default_context(cafile=self.ca) if tls else None
        self.config = open(os.path.join(self.folder, "feishu-config.ini")).read()

    def ask(self, path, method="POST"):
        request = urllib.request.Request(self.base + path, method=method)
        with urllib.request.urlopen(request, context=self.context) as reply:
            return reply.read().decode().strip()

    def counts(self):
        return json.loads(self.ask("/sandbox/counts"))

    def app(self):
        """App id and secret, as lines."""
        return "".join(re.findall(r"app_(?:id|secret) = .*\n", self.config)[:2])

    def profiles(self, path, count, api="v1"):
        """Writes a file with this many profiles."""
        with open(path, "w", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
            file.write(f"[ID]\n{self.app()}base_url = {self.base}\n")
            for index in range(count):
                token = self.ask(f"/sandbox/login/{api}")
                file.write(f"\n[p{index}]\napi = {api}\nrefresh_token = {token}\n")
        return path


@contextlib.contextmanager
def sandbox(tls=False):
    server = Sandbox(tls)
    try:
        yield server
    finally:
        server.process.terminate()  # It takes its folder along.


def run(arguments):
    """Runs a program; returns its time in seconds. Spawned with as little overhead as possible: the
    shortest of these runs take less than what `subprocess` adds."""
    program = shutil.which(arguments[0])
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (1, 2)]
    start = time.perf_counter()
    child = os.posix_spawn(program, arguments, os.environ, file_actions=quiet)
    _, status = os.waitpid(child, 0)
    took = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"{arguments} ended with {os.waitstatus_to_exitcode(status)}")
    return took


def peak_memory(arguments):
    """A program's peak memory, in bytes. From GNU time: a process started from here
    inherits the peak of this interpreter."""
    timed = subprocess.run(["time", "-f", "%M"] + arguments, capture_output=True, text=True, check=True)
    return int(timed.stderr.split()[-1]) * 1024


def system_calls(arguments, calls):
    """What a program asked of the system: (call, arguments, result) each."""
    with tempfile.NamedTemporaryFile("r") as trace:
        run(["strace", "-f", "-qq", "-o", trace.name, "-e", "trace=" + ",".join(calls)] + arguments)
        lines = trace.read().splitlines()
    found = (re.match(r"\d+ +(\w+)\((.*)\) += (\d+)", line) for line in lines)
    return [(m.group(1), m.group(2), int(m.group(3))) for m in found if m]


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()


def milliseconds(seconds):
    return f"{seconds * 1000:.1f} ms"


def medians(commands, rounds):
    """The median time of each command, in seconds, by hyperfine, one command after the other."""
    with tempfile.NamedTemporaryFile("r") as results:
        lines = [shlex.join(command) for command in commands.values()]
        hyperfine = ["hyperfine", "-N", "--style=none", f"--runs={rounds}", "--warmup=3", "--export-json", results.name]
        subprocess.run(hyperfine + lines, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return {name: of_one["median"] for name, of_one in zip(commands, json.load(results)["results"])}


def in_turns(commands, rounds):
    """The median time of each command, in seconds, where they take turns."""
    times = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            times[name].append(run(command))
    return {name: statistics.median(of_one) for name, of_one in times.items()}


def one():
    with sandbox(tls=True) as server, tempfile.TemporaryDirectory() as folder:
        path = lambda name, api: server.profiles(os.path.join(folder, name), 1, api)
        ours = [PROGRAM, "-q", "-p", "p0", "--ca-cert", server.ca, "-c", path("ours.ini", "v2")]
        lasting = [PROGRAM, "-q", "-p", "p0", "--min-ttl", "10m", "-c", path("lasting.ini", "v2")]
        python = os.environ.get("PYTHON", sys.executable)
        here = os.path.join(ROOT, "benches")
        app_id, app_secret = re.findall(r"= (.*)", server.app())
        # What curl loads without a named authority: the system's store, with ours in it.
        with open(os.path.join(folder, "store.pem"), "w") as both:
            both.write(open("/etc/ssl/certs/ca-certificates.crt").read() + open(server.ca).read())
        # Refused, so a little less work for the server: curl could not save what it gets.
        body = {"grant_type": "refresh_token", "client_id": app_id, "client_secret": app_secret, "refresh_token": "x" * 1000}
        curl = lambda store: ["curl", "-sS", "--cacert", store, "-H", "Content-Type: application/json; charset=utf-8", "-d", json.dumps(body), server.base + "/open-apis/authen/v2/oauth/token"]
        run(ours)
        run([PROGRAM, "-q", "-p", "p0", "--ca-cert", server.ca, "-c", lasting[-1]])
        floor = "the floor: one POST by the same crates, saving nothing (floor.rs)"
        refresh, requests, sdk = "feishu-refresh, saving its file", "Python, requests and configparser", "Python, the vendor's SDK"
        fast = {
            refresh: ours,
            floor: [os.path.join(RELEASE, "examples", "floor"), curl("")[-1], json.dumps(body), server.ca],
            "curl, the same POST, saving nothing": curl(both.name),
            "curl, knowing one certificate alone": curl(server.ca),
            "feishu-refresh --min-ttl, token lasts": lasting,
            "curl --version": ["curl", "--version"],
        }
        slow = {
            requests: [python, os.path.join(here, "with_requests.py"), path("requests.ini", "v2"), server.ca],
            sdk: [python, os.path.join(here, "with_sdk.py"), path("sdk.ini", "v1"), server.ca],
        }
        for name in list(slow):
            if subprocess.run(slow[name], capture_output=True).returncode != 0:
                print(f"({name}: left out, since it does not run here)\n")
                del slow[name]
        times = medians(fast, 200) | {name: medians({name: slow[name]}, 40 if name == requests else 5)[name] for name in slow}
        print("## One refresh over TLS 1.3 on loopback, medians\n")
        table(["", "time", "of a refresh"], [[name, milliseconds(time), f"{time / times[refresh]:.2f}"] for name, time in times.items()])
        share = lambda one, other: f"{times[one] / times[other]:.3f}"
        print(f"A refresh with its durable save takes {share(refresh, 'curl, the same POST, saving nothing')} of curl's time for the POST alone,")
        print(f"{share(refresh, 'curl, knowing one certificate alone')} of that of a curl that is spared the system's certificates;")
        print(f"a token that lasts {share('feishu-refresh --min-ttl, token lasts', 'curl --version')} of `curl --version`.")
        turns = in_turns(fast, 201)
        print("In turns, which leaves cold caches:", ", ".join(f"{name} {milliseconds(time)}" for name, time in turns.items()))
        print(f"(of the floor {turns[refresh] / turns[floor]:.2f}).")
        if requests in slow:
            turns = in_turns({refresh: ours, requests: slow[requests]}, 41)
            print(f"Of the Python program's time, a refresh takes 1/{times[requests] / times[refresh]:.0f};", end=" ")
            print(f"in turns with it, which leaves cold caches, 1/{turns[requests] / turns[refresh]:.0f} ({milliseconds(turns[refresh])}).")
        before = server.counts()
        run(ours)
        after = server.counts()
        files = system_calls(ours, ["fsync", "fdatasync", "rename", "renameat", "renameat2"])
        print(f"One refresh: {after['requests'] - before['requests']} request, {after['connections'] - before['connections'] - 1} connection,", end=" ")
        print(f"{sum(call.endswith('sync') for call, _, _ in files)} fsyncs, peak memory {peak_memory(ours) / 2**20:.1f} MiB, binary {os.path.getsize(PROGRAM) / 2**20:.2f} MiB.")
        sent = [result for call, text, result in system_calls(ours, ["writev", "sendto", "sendmsg"]) if result]
        print(f"Writes to the network: {len(sent)} ({', '.join(map(str, sent))} bytes): hello, end of the handshake, request.")
        everything = subprocess.run(["strace", "-f", "-c", "-S", "calls"] + ours, capture_output=True, text=True).stderr
        print("System calls in all:", re.search(r"(\d+)\s+\d*\s*total", everything).group(1))
        libraries = subprocess.run(["ldd", PROGRAM], capture_output=True, text=True).stdout
        print("Libraries:", ", ".join(sorted(set(re.findall(r"(lib\w+)\.so", libraries)))), "\n")


def profiles():
    for tls in (False, True):
        with sandbox(tls) as server, tempfile.TemporaryDirectory() as folder:
            all_of = lambda path: [PROGRAM, "--all", "--rate", "0", "-q", "-c", path] + ["--ca-cert", server.ca] * tls
            counts = (1, 10, 100, 1000, 10_000)
            files = {n: server.profiles(os.path.join(folder, f"{n}.ini"), n) for n in counts}
            for path in files.values():
                run(all_of(path))
            times = {n: [] for n in counts}
            for _ in range(7):
                for n in counts:
                    times[n].append(run(all_of(files[n])))
            rows = []
            for n in counts:
                calls = system_calls(all_of(files[n]), ["rename", "renameat", "renameat2", "fsync", "pwrite64"])
                saves = sum(call.startswith("rename") for call, _, _ in calls)
                written = sum(result for call, _, result in calls if call == "pwrite64")
                size = os.path.getsize(files[n])
                rows.append([f"{n:,}", milliseconds(statistics.median(times[n])), saves, f"{written:,}", f"{size:,}", f"{peak_memory(all_of(files[n])) / 2**20:.1f} MiB"])
            print(f"## Many profiles in one run, {'TLS 1.3' if tls else 'plain HTTP'} on loopback, no rate limit\n")
            table(["profiles", "time", "saves", "bytes written", "size of the file", "peak memory"], rows)
            median = {n: statistics.median(times[n]) for n in counts}
            print(f"1,000 profiles take {median[1000] / median[100]:.1f} times as long as 100.")
            one_by_one = 0
            for index in range(1000):
                arguments = [PROGRAM, "-q", "-c", files[1000], "-p", f"p{index}"] + ["--ca-cert", server.ca] * tls
                one_by_one += run(arguments)
            again = statistics.median(run(all_of(files[1000])) for _ in range(3))
            print(f"1,000 runs one after the other take {one_by_one:.1f} s, one run over all {milliseconds(again)}: {one_by_one / again:.0f} times faster.\n")
            assert server.counts()["spent_tokens_sent"] == 0


def limits():
    with sandbox() as server, tempfile.TemporaryDirectory() as folder:
        path = server.profiles(os.path.join(folder, "all.ini"), 1200)
        before = server.counts()["connections"]
        took = run([PROGRAM, "--all", "-q", "-c", path])
        counts = server.counts()
        print("## The documented limits, 1,200 profiles of one app\n")
        table(
            ["time", "requests", "most within a second (50)", "most within a minute (1,000)", "connections"],
            [[f"{took:.1f} s", counts["requests"], counts["within_a_second"], counts["within_a_minute"], counts["connections"] - before - 1]],
        )
        assert counts["within_a_second"] <= 50 and counts["within_a_minute"] <= 1000


@contextlib.contextmanager
def database():
    """A stand-in server and a PostgreSQL, with a login in it: the environment that names the store."""
    arguments = [os.path.join(RELEASE, "examples", "sandbox"), "--postgres", "--serve"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
    said = ""
    while "psql -x" not in said:
        line = process.stdout.readline()
        assert line, "no PostgreSQL here: " + said
        said += line
    try:
        environment = dict(re.findall(r"export (\w+)='(.*)'\n", said))
        yield environment | {"SUPERUSER": re.search(r"psql -x '(\S+)'", said).group(1)}
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()


def store(rounds=200):
    programs = sorted(glob.glob("/usr/lib/postgresql/*/bin/psql"))
    psql = programs[-1] if programs else shutil.which("psql")
    with database() as environment:
        os.environ.update(environment)
        commands = {
            "`psql -c 'select 1'`": [psql, "-X", "-q", "-o", "/dev/null", "-c", "select 1", environment["FEISHU_STORE"]],
            "`feishu-refresh --min-ttl 10m`, the token lasts": [PROGRAM, "--min-ttl", "10m"],
            "`feishu-refresh`, a whole refresh": [PROGRAM],
        }
        for command in commands.values():
            run(command)
        times = in_turns(commands, rounds)
        print(f"## With a store in PostgreSQL, in turns, {rounds} rounds\n")
        first = next(iter(times.values()))
        table(["", "time", "of psql"], [[name, milliseconds(time), f"{time / first:.2f}"] for name, time in times.items()])


if __name__ == "__main__":
    known = {"one": one, "profiles": profiles, "store": store, "limits": limits}
    for name in sys.argv[1:] or known:
        known[name]()
