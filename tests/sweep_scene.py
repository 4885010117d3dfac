"""A scene for kill sweeps: a folder, a stand-in server, and what the traces of runs say about tokens."""

import atexit
import collections
import configparser
import contextlib
import os
import pathlib
import re
import subprocess
import tempfile
import threading
import urllib.request

FILE = "feishu-config.ini"
COMMENTS = ("; A file for sweeps: this comment stays.\n", "; So does this one.\n")
PROFILES = {"app": [], "login": ["TOKEN"], "many": [f"bot-{number}" for number in range(6)], None: []}
TOLD_LOST = "an earlier attempt got no usable reply"
LONGEST_RUN = 60

TOKEN = re.compile(r"[\w.-]*ur-sandbox[\w.-]+")
# The calls that say what was sent, read and written, if completed.
CARRIERS = "recvfrom,writev,write,pwrite64"
REQUEST, REPLY, WRITE = r'writev.*"POST /', r'recvfrom.*"HTTP/1.1 ', r"p?write(64)? (?![12],)"
DONE = re.compile(r" = \d[^=]*$")
WAKE_UP = r'"\1\0\0\0\0\0\0\0", 8'  # How the runtime wakes itself: a disk cannot make that fail.

Call = collections.namedtuple("Call", "thread name text")
Run = collections.namedtuple("Run", "code stderr calls")


class StandIn:
    """The stand-in server: one for each worker, so that its counts are of one trial."""

    def __init__(self, sandbox, binary, folder):
        self.binary = binary
        environment = {**os.environ, "TMPDIR": folder}
        self.process = subprocess.Popen([sandbox, "--serve"], stdout=subprocess.PIPE, text=True, env=environment)
        said = ""
        while " -r ur-" not in said:
            said += self.process.stdout.readline()
        self.base = re.search(r"http://[\d.:]+", said)[0]
        self.app_token = re.search(r" -a (\S+)", said)[1]
        demo = pathlib.Path(re.search(r"cd '(.*)'", said)[1], FILE).read_text()
        self.app = "".join(re.findall(r"app_(?:id|secret) = .*\n", demo)[:2])
        atexit.register(self.process.kill)
        # A full pipe would stop it.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def get(self, path):
        with urllib.request.urlopen(self.base + path, timeout=LONGEST_RUN) as reply:
            return reply.read().decode().strip()

    def is_live(self, token):
        return self.get(f"/sandbox/live/{token}") == "yes"

    def spent_tokens_sent(self):
        self.get("/sandbox/settled")  # What a dead client sent counts, too.
        return int(re.search(r'"spent_tokens_sent":(\d+)', self.get("/sandbox/counts"))[1])


def calls_of(trace):
    """The system calls of a trace, in the order in which they began."""
    calls, current = [], {}
    for line in trace.splitlines():
        if match := re.match(r"(\d+)\s+(?:<\.\.\. \w+ resumed>|(\w+)\()(.*)", line):
            thread, name, text = match.groups()
            if name:
                current[thread] = [thread, name, f"{name} "]
                calls.append(current[thread])
            current[thread][2] += text
    return [Call(*call) for call in calls]


class Scene:
    """A folder with a file, what has happened to its tokens, and what is lost or wrong in the end."""

    def __init__(self, scenario, stand_in, injections=()):
        self.scenario, self.stand_in, self.injections = scenario, stand_in, injections
        self.sent, self.replies, self.received, self.written, self.told = 0, 0, [], set(), ""
        self.lost, self.wrong, self.is_lost_before, self.was_reached = [], [], False, True
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="sweep-"))
        self.root.chmod(0o755)
        self.home, self.state, self.tmp = (self.root / name for name in ("home", "state", "tmp"))
        self.file = self.home / FILE
        for folder in (self.home, self.state, self.tmp):
            folder.mkdir()
        self.words = {**vars(stand_in), "new": stand_in.get("/sandbox/login/v1")}
        if scenario.text:
            self.file.write_text(self.first_text())
            self.file.chmod(0o640)
        if scenario.links > 1:
            os.link(self.file, self.root / "other.ini")
        if scenario.user:
            for path in (self.file, self.home, self.state, self.tmp):
                os.chown(path, scenario.user, scenario.user)
            self.home.chmod(0o555)
        self.look, self.spent_before = self.looks(), stand_in.spent_tokens_sent()

    def first_text(self):
        app = self.stand_in.app if self.scenario.text == "app" else ""
        text = f"{COMMENTS[0]}[ID]\nbase_url = {self.stand_in.base}\naccounts_url = {self.stand_in.base}\n{app}"
        for profile in PROFILES[self.scenario.text]:
            token = self.stand_in.get("/sandbox/login/v1")
            text += f"\n[{profile}]\napp_access_token = {self.stand_in.app_token}\nrefresh_token = {token}\n"
        return f"{text}\n{COMMENTS[1]}[foreign]\nkey: value\n"

    def looks(self):
        """What must not change about the file; where it is written in place, which one it is."""
        if not self.file.exists():
            return (0, 0, 0o600, 1, None)
        stat, is_in_place = self.file.stat(), self.scenario.links > 1 or self.scenario.user
        return (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777, stat.st_nlink, is_in_place and stat.st_ino)

    def run(self, number, injection=None, is_traced=True):
        """Runs what is run first, or after that, and notes what it sent, read and wrote."""
        command = [self.stand_in.binary, *self.scenario.commands[number > 0].format(**self.words).split()]
        if user := self.scenario.user:
            # Not the tracer: the program lets only root look into it.
            command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command]
        trace = self.root / "trace"
        if is_traced:
            names = f"{CARRIERS},{injection.split(':')[0]}" if injection else "all"
            inject = ["-e", f"inject={injection}"] if injection else []
            command = ["strace", "-f", "-qq", "-s", "9999", "-o", trace, "-e", f"trace={names}", *inject, *command]
        state = {"XDG_STATE_HOME": str(self.state)} if self.scenario.has_state else {}
        environment = {"PATH": os.defpath, "TMPDIR": str(self.tmp), **state}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(command, cwd=self.home, env=environment, text=True, **pipes)
        hung = threading.Timer(LONGEST_RUN, lambda: (self.wrong.append("a run hung"), process.kill()))
        hung.start()
        said = self.consent(process) if "login" in command else ""
        # A run that is killed early reads nothing.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        # What is printed meanwhile fits into its pipe.
        said += process.stderr.read()
        process.stdout.close()
        run = Run(process.wait(), said, calls_of(trace.read_text()) if is_traced else [])
        hung.cancel()
        self.told += said
        for call in run.calls:
            if DONE.search(call.text[-80:]):
                self.note(call)
        return run

    def consent(self, process):
        said = ""
        while "Paste its address here" not in said and (line := process.stderr.readline()):
            said += line
        if page := re.search(r"\n  http\S+\?(\S+)", said):
            page = self.stand_in.get("/open-apis/authen/v1/authorize?" + page[1]).replace("&amp;", "&")
            process.stdin.write(re.search(r'id=agree href="([^"]+)"', page)[1] + "\n")
        return said

    def note(self, call):
        if re.match(REQUEST, call.text):
            self.sent += 1
        elif re.match(REPLY, call.text):
            self.replies += 1
            self.received += TOKEN.findall(call.text)
        elif re.match(WRITE, call.text):
            self.written.update(TOKEN.findall(call.text))

    def text(self):
        return self.file.read_text() if self.file.exists() else ""

    def tokens(self):
        """The refresh tokens of the file, as the Python program would read them."""
        parser = configparser.ConfigParser()
        try:
            parser.read_string("" if self.text().startswith("\0") else self.text())
        except configparser.Error as error:
            self.wrong.append(f"the file does not parse: {error}")
        return {name: parser[name]["refresh_token"] for name in parser if "refresh_token" in parser[name]}

    def is_sound(self):
        return bool(self.tokens()) and not (self.scenario.text and [c for c in COMMENTS if c not in self.text()])

    def check_kill(self, run, old):
        """P3: the old text or the new one; torn only where it is written in place."""
        self.was_reached &= run.code < 0
        is_torn = self.text().startswith("\0")
        if is_torn and not self.look[-1] or not is_torn and self.text() not in ("", old) and not self.is_sound():
            self.wrong.append(f"the file holds neither the old text nor a new one: {self.text()!r}")

    def check_error(self, run):
        """After an error each pair is in the file, or in a journal that is named, or printed."""
        kept = "" if self.text().startswith("\0") else self.text()
        for path in map(pathlib.Path, re.findall(r"/\S+\.journal[\w.]*", run.stderr)):
            kept += path.read_text() if path.is_file() and run.code == 6 else ""
        journals = "".join(path.read_text() for path in self.root.glob("[hst]*/**/*.journal"))
        for token in self.received:
            if token not in kept + run.stderr:
                self.lost.append(f"{token[:50]} is nowhere after an error, code {run.code}: {run.stderr}")
            # What is printed may be in a journal all the same, as when it could not be synced.
            elif token not in kept + journals:
                self.put_in_by_hand(run.stderr)
                self.written.add(token)
        # Some of many logins may have been left alone; and a runtime that cannot wake itself panics.
        was_idle = self.sent < max(1, len(PROFILES[self.scenario.text]))
        is_panic = [call for call in run.calls if WAKE_UP in call.text and "(INJECTED)" in call.text]
        if run.code not in (0, 1, 6) and not was_idle and not is_panic:
            self.wrong.append(f"code {run.code} after an error: {run.stderr}")

    def put_in_by_hand(self, printed):
        text = self.text() if "[TOKEN]\n" in self.text() else f"{self.text()}\n[TOKEN]\n"
        for line in re.findall(r"^\w+ = .*\n", printed, re.M):
            text = re.sub(rf"^{line.split()[0]} = .*\n", "", text, flags=re.M).replace("[TOKEN]\n", f"[TOKEN]\n{line}")
        self.file.touch(0o600)
        self.file.write_text(text)

    def judge(self, last):
        """What the last run, which nobody disturbed, shows of the others."""
        unwritten = set(self.received) - self.written
        excuses = self.sent - self.replies + len(unwritten)
        held = self.tokens()
        dead = [name for name, token in held.items() if not self.stand_in.is_live(token)]
        got_away = [token for token in {*self.received} - {*held.values()} if self.stand_in.is_live(token)]
        self.lost += [f"{token[:50]} was written, and is not in the file" for token in got_away if token in self.written]
        self.is_lost_before = bool(excuses and (last.code or dead or unwritten.intersection(got_away)))
        if len(dead) > excuses:
            self.lost.append(f"the tokens of {dead} are dead, with excuses for {excuses}")
        if self.stand_in.spent_tokens_sent() > self.spent_before and not excuses:
            self.wrong.append("a spent token was sent")
        # There never was a token in the file, and none was got, or it may be lost.
        has_none = self.scenario.text != "login" and not held and (excuses or not self.sent)
        # But for a run that was about to tell it when it was killed.
        was_told = TOLD_LOST in self.told or self.replies > len(self.received)
        if last.code == 0:
            self.check_end(held, dead)
        elif not excuses and not has_none:
            self.lost.append(f"the last run ended with {last.code}: {last.stderr}")
        elif last.code not in ((3, 4) if has_none else (4,)) or last.code == 4 and not was_told:
            self.wrong.append(f"the last run ended with {last.code}: {last.stderr}")

    def check_end(self, held, dead):
        if dead or not held:
            self.wrong.append(f"code 0, and the tokens of {dead} of {list(held)} are dead")
        if self.looks() != self.look or not self.is_sound():
            self.wrong.append(f"the file is not as it was: {self.look} {self.looks()} {self.text()}")
        beside = {*self.home.iterdir(), *self.tmp.iterdir(), *self.state.glob("*/*")} - {self.file}
        if beside := [path.name for path in beside if path.suffix != ".done"]:
            self.wrong.append(f"left lying about: {beside}")

    def show(self, moment, run):
        print(f"==== {moment}: code {run.code}\n{run.stderr}")
        for path in sorted(path for path in self.root.glob("[hst]*/**/*") if path.is_file()):
            print(f"---- {path}\n{path.read_text()}".replace("\0", "\\0"))
