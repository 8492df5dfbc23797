"""What a power failure leaves of a CA's directory, at every moment of a traced run.

usage: durability.py TRACE BEFORE DIRECTORY STATES [--deaf]

TRACE is what strace (-f -y -xx) saw of a CA that served from DIRECTORY; BEFORE is a copy of DIRECTORY from before. The
directory is rebuilt as a failure may leave it: with nothing that was not synced, after each sync and whenever the CA has
reported another certificate since; with all of it, and with some of it, chosen and torn at random, after a share of the calls.
Each is opened with SQLite: the database has to be whole, its audit chain has to hold, and the certificates that the CA had
reported by then have to be in it, once. Some are kept in STATES for the CA itself to open. Prints one line of JSON; exit 1 when something is wrong.

--deaf takes no call for a sync, which must not pass: it shows that the checks can fail.
"""
import contextlib, hashlib, json, os, random, re, shutil, sqlite3, struct, sys

CALL = re.compile(r"^(\d+)\s+(\w+)\((.*)$", re.S)
RESUMED = re.compile(r"^(\d+)\s+<\.\.\. (\w+) resumed>(.*)$", re.S)
UNFINISHED = " <unfinished ...>"
HEX = re.compile(r"\\x([0-9a-f]{2})")
NAMED = re.compile(r"<((?:\\x[0-9a-f]{2})+)>")
TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
REPORTED = re.compile(r'serial[="\': ]+([0-9a-f]{16,40})')
SECTOR = 512
KEPT = 8
# Of the calls after which a state with what was not synced is looked at.
SHARE = 0.05


def octets(text):
    return bytes.fromhex(text.replace("\\x", ""))


def calls(trace):
    """Each call once, when it has ended; what it writes to a log, when it begins."""
    begun = {}
    with open(trace, encoding="ascii") as lines:
        for line in lines:
            line = line.rstrip("\n")
            if match := RESUMED.match(line):
                pid, name, rest = match.groups()
                yield name, begun.pop(pid) + rest, False
            elif match := CALL.match(line):
                pid, name, rest = match.groups()
                yield name, rest, True
                if rest.endswith(UNFINISHED):
                    begun[pid] = rest[: -len(UNFINISHED)]
                else:
                    yield name, rest, False


class Disk:
    """A directory: what is durable of it, and what was done since."""

    def __init__(self, before, place, deaf):
        self.place, self.deaf = os.path.realpath(place), deaf
        self.durable = {}  # by file
        self.pending = {}  # by file: ("write", offset, bytes) and ("cut", length)
        self.names = {}  # name -> file, durable
        self.moves = []  # (name, file or None), not yet durable
        self.next = 0
        for name in os.listdir(before):
            path = os.path.join(before, name)
            if os.path.isfile(path):
                with open(path, "rb") as content:
                    self.names[name] = self.file(content.read())

    def file(self, content=b""):
        self.next += 1
        self.durable[self.next], self.pending[self.next] = content, []
        return self.next

    def present(self):
        names = dict(self.names)
        for name, file in self.moves:
            names.pop(name, None) if file is None else names.__setitem__(name, file)
        return names

    def name(self, path):
        path = os.fsdecode(path)
        path = path if path.startswith("/") else os.path.join(os.path.dirname(self.place), path)
        inside = os.path.dirname(path) == self.place and not path.endswith("-shm")
        return os.path.basename(path) if inside else None

    def apply(self, name, rest):
        """Gives whether the state that a failure would leave may have changed."""
        if " = -1 " in rest or rest.rstrip().endswith("= ?"):
            return False
        named = NAMED.search(rest.split(",")[0].split(")")[0])
        if name in ("fsync", "fdatasync"):
            return bool(named) and self.sync(octets(named.group(1)))
        if name in ("pwrite64", "write", "ftruncate"):
            file = named and self.present().get(self.name(octets(named.group(1))))
            if not file:
                return False
            if name == "ftruncate":
                self.pending[file].append(("cut", int(rest.split(",")[1].split(")")[0])))
                return True
            text = TEXT.search(rest)
            assert not text.group(2), "the trace has cut a write short"
            assert name == "pwrite64", f"a write without a place: {rest[:80]}"
            offset = int(rest[text.end() :].split(")")[0].split(",")[2])
            self.pending[file].append(("write", offset, octets(text.group(1))))
            return True
        paths = [self.name(octets(text.group(1))) for text in TEXT.finditer(rest)]
        if name == "openat" and paths[0] and "O_CREAT" in rest and paths[0] not in self.present():
            self.moves.append((paths[0], self.file()))
            return True
        if name in ("unlink", "unlinkat") and paths[0]:
            self.moves.append((paths[0], None))
            return True
        if name.startswith("rename"):
            assert not any(paths), f"not understood: {name}"
        return False

    def sync(self, path):
        if self.deaf:
            return False
        if os.fsdecode(path) == self.place:
            self.names, self.moves = self.present(), []
            return True
        file = self.present().get(self.name(path))
        if not file:
            return False
        self.durable[file] = self.content(file, self.pending[file])
        self.pending[file] = []
        return True

    def content(self, file, done):
        content = bytearray(self.durable[file])
        for change in done:
            if change[0] == "cut":
                del content[change[1] :]
                content.extend(bytes(change[1] - len(content)))
            else:
                _, offset, octets_ = change
                content.extend(bytes(max(0, offset + len(octets_) - len(content))))
                content[offset : offset + len(octets_)] = octets_
        return bytes(content)

    def left(self, how, chance):
        """The files that a failure leaves: `lost`, `kept` or `torn`."""
        names = self.names if how == "lost" else self.present()
        if how == "torn" and chance.random() < 0.3:
            names = self.names
        files = {}
        for name, file in names.items():
            done = self.pending[file]
            if how == "lost":
                done = []
            elif how == "torn":
                done = [part for change in done for part in torn(change, chance)]
            files[name] = self.content(file, done)
        return files


def torn(change, chance):
    if change[0] == "cut":
        return [change] if chance.random() < 0.5 else []
    _, offset, content = change
    kept = chance.choice((0, 1, 0.5))
    sectors = range(0, len(content), SECTOR)
    return [("write", offset + at, content[at : at + SECTOR]) for at in sectors if chance.random() < kept]


def wrong_with(directory, reported):
    """What SQLite finds in a database after a failure; it recovers it first."""
    try:
        with contextlib.closing(sqlite3.connect(os.path.join(directory, "ca.db"))) as database:
            return wrong_in(database, reported)
    except sqlite3.DatabaseError as error:
        return f"cannot be read: {error}"


def wrong_in(database, reported):
    whole = database.execute("PRAGMA integrity_check").fetchall()
    if whole != [("ok",)]:
        return f"not whole: {whole[:3]}"
    previous, recorded = bytes(32), []
    rows = database.execute("SELECT seq, time_ms, event, previous, hash FROM audit ORDER BY seq")
    for expected, (seq, time_ms, event, before, found) in enumerate(rows, 1):
        fields = struct.pack(">qq", seq, time_ms) + bytes(before) + event.encode()
        digest = hashlib.sha256(b"tipstaff audit v1\0" + fields).digest()
        if seq != expected or before != previous or found != digest:
            return f"the chain does not hold at record {seq}"
        previous = found
        event = json.loads(event)
        if event["kind"] == "issued":
            recorded.append(event["serial"])
    certificates = {serial for (serial,) in database.execute("SELECT serial FROM certificate")}
    if len(set(recorded)) != len(recorded) or set(recorded) != certificates:
        return "certificates and records differ, or a serial was given twice"
    lost = reported - certificates
    return f"{len(lost)} of {len(reported)} reported certificates are lost" if lost else None


class Trial:
    """Rebuilds states and looks for what is wrong with them."""

    def __init__(self, disk, states):
        self.disk, self.states, self.chance = disk, states, random.Random(1)
        self.reported, self.known = set(), 0
        self.tried, self.wrong, self.kept = 0, [], []
        os.makedirs(states)

    def hear(self, rest):
        """What the CA says of what it has issued."""
        for text in TEXT.finditer(rest):
            said = octets(text.group(1)).decode("utf-8", "replace")
            if "issued" in said or "new server certificate" in said:
                self.reported.update(REPORTED.findall(said))

    def look(self, how, when, keep=False):
        self.tried += 1
        state = os.path.join(self.states, f"{self.tried}-{how}")
        files = self.disk.left(how, self.chance)
        write(files, state)
        found = wrong_with(state, self.reported)
        if found:
            self.wrong.append(f"{when}, {how}: {found}")
        shutil.rmtree(state)
        if keep and not found:
            # Not as SQLite has left it.
            write(files, state)
            self.kept.append(state)
        if len(self.kept) > KEPT:
            shutil.rmtree(self.kept.pop(self.chance.randrange(len(self.kept))))

    def look_if_more_is_reported(self):
        """Between two syncs nothing becomes durable, but more may be said to be."""
        if len(self.reported) > self.known:
            self.known = len(self.reported)
            self.look("lost", "before the next call")


def main(trace, before, place, states, deaf):
    trial = Trial(Disk(before, place, deaf), states)
    syncs = 0
    for number, (name, rest, begins) in enumerate(calls(trace)):
        if begins:
            if name in ("write", "writev"):
                trial.hear(rest)
            continue
        trial.look_if_more_is_reported()
        if not trial.disk.apply(name, rest):
            continue
        when = f"after line {number} ({name})"
        if name.endswith("sync"):
            syncs += 1
            trial.look("lost", when, keep=True)
        for how in ("kept", "torn"):
            if trial.chance.random() < SHARE:
                trial.look(how, when)
    trial.look_if_more_is_reported()
    report = dict(states=trial.tried, syncs=syncs, reported=len(trial.reported), wrong=len(trial.wrong))
    print(json.dumps(report | dict(first=trial.wrong[:5])))
    return 1 if trial.wrong else 0


def write(files, directory):
    os.makedirs(directory)
    for name, content in files.items():
        path = os.path.join(directory, name)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as out:
            out.write(content)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5], deaf="--deaf" in sys.argv[5:]))
