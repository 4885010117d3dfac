#!/usr/bin/env python3
"""What many logins in PostgreSQL cost: how fast due ones are found among a million, and how workers keep to the limits.

    cargo build --release && cargo build --release --example sandbox
    python3 benches/many.py million            # from a thousand logins to a million
    python3 benches/many.py workers            # ten workers on two apps, then one, for two minutes each

Needs Python 3, GNU time and PostgreSQL with psql. A thousand logins are sealed by the program itself; the others are
copies of rows that are not due, so that nobody opens them.
"""

import glob
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

from measure import PROGRAM, database, milliseconds, peak_memory, run, table

APPS = ["cli_sandbox0a1b2c3d4e5f", "cli_sandbox9f8e7d6c5b4a"]
SECRET = "sandbox0-secret-Qm7xV2kPz9LwT4"


class Store:
    """A database with a stand-in server beside it."""

    def __init__(self, environment):
        os.environ.update(environment)
        programs = sorted(glob.glob("/usr/lib/postgresql/*/bin/psql"))
        self.psql = programs[-1] if programs else shutil.which("psql")
        self.superuser = environment["SUPERUSER"]
        self.base = self.ask_database("SELECT base_url FROM feishu_refresh.login")
        folder = os.path.dirname(self.ask_database("SHOW data_directory"))
        self.log = os.path.join(folder, "log")

    def ask_database(self, sql):
        command = [self.psql, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", self.superuser, "-c", sql]
        environment = os.environ | {"PGOPTIONS": "-c log_statement=none -c log_min_duration_statement=-1"}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()

    def ask(self, path, method="POST"):
        request = urllib.request.Request(self.base + path, method=method)
        with urllib.request.urlopen(request) as reply:
            return reply.read().decode().strip()

    def counts(self):
        return json.loads(self.ask("/sandbox/counts"))

    def add(self, api, app_id, name, count):
        """Moves this many new logins of an app into the store."""
        with tempfile.TemporaryDirectory() as folder:
            for first in range(0, count, 50):
                path = os.path.join(folder, "some.ini")
                with open(path, "w", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
                    file.write(f"[ID]\napp_id = {app_id}\napp_secret = {SECRET}\nbase_url = {self.base}\n")
                    for index in range(first, min(first + 50, count)):
                        file.write(f"[{name}{index}]\napi = {api}\nrefresh_token = {self.ask('/sandbox/login/' + api)}\n")
                run([PROGRAM, "store", "import", "-q", "-c", path])

    def durations(self, words, work):
        """The server's time for the statements with these words during some work, in seconds: planning and execution."""
        start = os.path.getsize(self.log)
        work()
        with open(self.log, errors="replace") as file:
            file.seek(start)
            text = file.read()
        found = re.findall(r"duration: ([0-9.]+) ms  (?:parse|bind|execute) [^:]*: " + re.escape(words), text)
        times = [float(each) / 1000 for each in found]
        return [sum(times[i : i + 3]) for i in range(0, len(times), 3)]


def million():
    with database() as environment:
        store = Store(environment)
        store.ask_database("ALTER SYSTEM SET log_min_duration_statement = 0")
        store.ask_database("ALTER SYSTEM SET log_statement = 'none'")
        store.ask_database("ALTER SYSTEM SET shared_buffers = '512MB'")
        store.ask_database("SELECT pg_reload_conf()")
        store.add("v1", APPS[0], "p", 999)
        worker = [PROGRAM, "--all", "-q", "--rate", "0", "--min-ttl", "10m"]
        run(worker)
        rows = []
        for size in (1000, 10_000, 100_000, 1_000_000):
            there = int(store.ask_database("SELECT count(*) FROM feishu_refresh.login"))
            begun = time.perf_counter()
            # A copy of each of a thousand, again and again; their expiries are spread over the time to come.
            columns = store.ask_database("""SELECT string_agg(attname, ',') FROM pg_attribute
                WHERE attrelid = 'feishu_refresh.login'::regclass AND attnum > 0""").split(",")
            changed = {
                "name": "'copy' || n",
                "access_expires_at": "now() + interval '1 day' + n * interval '10 ms'",
                "refresh_expires_at": "now() + interval '30 days' + n * interval '10 ms'",
                "refreshed_at": "now() - n * interval '10 ms'",
            }
            store.ask_database(f"""
                CREATE TEMP TABLE known AS SELECT l.*, row_number() OVER () AS number
                  FROM feishu_refresh.login l WHERE name LIKE 'p%';
                INSERT INTO feishu_refresh.login ({",".join(columns)})
                SELECT {",".join(changed.get(column, column) for column in columns)}
                FROM generate_series({there}, {size} - 1) n JOIN known ON number = n % 999 + 1""")
            filled = time.perf_counter() - begun
            store.ask_database("VACUUM ANALYZE feishu_refresh.login")
            first, claims, looks, times, idle = [], [], [], [], []
            for _ in range(15):
                store.ask_database("""UPDATE feishu_refresh.login SET access_expires_at = now()
                    WHERE name IN (SELECT name FROM feishu_refresh.login WHERE name LIKE 'p%' ORDER BY random() LIMIT 32)""")
                took = []
                first += store.durations("WITH turn AS", lambda: took.append(run(worker)))[:1]
                times += took
                looks += store.durations("SELECT COALESCE(a.app_id", lambda: idle.append(run(worker)))
            size_of = lambda name: store.ask_database(f"SELECT pg_size_pretty(pg_relation_size('feishu_refresh.{name}'))")
            store.ask_database("UPDATE feishu_refresh.login SET access_expires_at = now() WHERE name LIKE 'p%'")
            memory = []
            # All but the first, in which the connection reads about the tables, and the last ones, which find fewer.
            claims += store.durations("WITH turn AS", lambda: memory.append(peak_memory(worker)))[1:25]
            begun = time.perf_counter()
            subprocess.run([PROGRAM, "status"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            status = time.perf_counter() - begun
            rows.append([
                f"{size:,}", milliseconds(statistics.median(claims)), milliseconds(statistics.median(first)), milliseconds(statistics.median(looks)),
                milliseconds(statistics.median(times)), milliseconds(statistics.median(idle)),
                f"{memory[0] / 2**20:.1f} MiB", milliseconds(status), size_of("login_access_expiry"), f"{filled:.0f} s",
            ])
            print(rows[-1], file=sys.stderr)
        print("## Many logins in PostgreSQL, 32 of them due\n")
        table(["logins", "claim of 32", "a connection's first", "look for due ones", "worker, 32 due", "worker, none due", "memory, 999 due", "status", "one index", "filled in"], rows)
        counts = store.counts()
        assert counts["spent_tokens_sent"] == 0


def workers(seconds=120):
    with database() as environment:
        store = Store(environment)
        for app_id, name in zip(APPS, "pq"):
            store.add("v2", app_id, name, 2100)
        store.ask_database("DELETE FROM feishu_refresh.login WHERE name = 'TOKEN'")
        rows = []
        for count in (10, 4, 1):
            store.ask_database("UPDATE feishu_refresh.login SET refreshed_at = NULL")
            store.ask("/sandbox/forget")
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            begun = time.perf_counter()
            started = [subprocess.Popen([PROGRAM, "--all", "-q", "--max-wait", "90"]) for _ in range(count)]
            time.sleep(seconds)
            done = all(worker.poll() is not None for worker in started)
            assert not done, "the workers were faster than the documented limits"
            for worker in started:
                worker.terminate()
            for worker in started:
                worker.wait()
            took = time.perf_counter() - begun
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            left = store.ask_database("SELECT count(*) FROM feishu_refresh.login WHERE lease_id IS NOT NULL OR sent_fingerprint IS NOT NULL")
            counts = store.counts()
            assert counts["spent_tokens_sent"] == 0 and left == "0", (counts, left)
            assert counts["requests"] == int(store.ask_database("SELECT count(*) FROM feishu_refresh.login WHERE refreshed_at IS NOT NULL"))
            for app_id in APPS:
                app = counts["apps"][app_id]
                used = (app["requests"] - 1) / app["seconds"] * 60 / 1000
                rows.append([count, app["requests"], app["within_a_second"], app["within_a_minute"], f"{used:.1%}", f"{cpu / took / count:.2%}"])
                assert app["within_a_second"] <= 50 and app["within_a_minute"] <= 1000 and used >= 0.95, app
            print(rows[-2:], file=sys.stderr)
        print(f"## Workers on 4,200 logins of two apps, {seconds} s each\n")
        table(["workers", "requests of an app", "most within a second (50)", "within a minute (1,000)", "of the allowed rate", "of a core, each"], rows)


if __name__ == "__main__":
    known = {"million": million, "workers": workers}
    for name in sys.argv[1:] or known:
        known[name]()
