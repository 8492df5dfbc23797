"""What every hostile run needs: a pair of sidecars, an honest load beside the attack, and what /proc and the app saw.

Sidecars, certificates, ports and /proc readings are those of ../compare.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "compare"))

import machine
import peers
from checks import ALLOWED
from machine import PAGE, Failure

MIB = 1024 * 1024
LARGE_BYTES = 16 * MIB
CLIENTS = 16
SIDES = ["inbound", "outbound"]
# The attacker is a legitimate caller that turned: whatever it asks for below /attack/ is granted.
ATTACKERS_GRANT = """apiVersion: tipstaff.dev/v1alpha1
kind: Grant
metadata: {name: attack, namespace: shop}
spec:
  from: ["%s"]
  to: ["%s"]
  allow:
    - {methods: [GET, POST], path: "/attack/**"}
  purpose: {id: attack, owner: benches}
  validity: {notAfter: never, because: a hostile run has no end date}
"""


class Sidecars(peers.Tipstaff):
    """Outbound and inbound sidecar with an app that counts its requests; a context manager.

    `inbound_extra` and `outbound_extra` are more lines for their configurations, `policy` more documents by name.
    `pair.inbound` and `pair.outbound` are `machine.Process`es, `pair.inbound_port` takes mTLS and
    `pair.outbound_port` plain text.
    """

    def __init__(self, name, inbound_extra="", outbound_extra="", policy=None):
        super().__init__(f"hostile-{name}", limit=500_000)
        self.extra = {"inbound": inbound_extra, "outbound": outbound_extra}
        self.documents = policy or {}
        self.admin = {}

    def start_authority(self):
        super().start_authority()
        attack = ATTACKERS_GRANT % (peers.pki.FRONTEND, peers.pki.ORDERS)
        for name, text in {"attack": attack, **self.documents}.items():
            (self.policy / f"{name}.yaml").write_text(text)

    def template(self, path, spiffe_id, **more):
        if path == "nginx/app.conf":
            large = self.folder / "large"
            large.write_bytes(bytes(LARGE_BYTES))
            return super().template(str(HERE / "app.conf"), spiffe_id, LARGE=large, **more)
        config = super().template(path, spiffe_id, **more)
        with config.open("a") as file:
            file.write(self.extra[config.stem])
        self.admin[config.stem] = more["ADMIN"]
        return config

    def requests_at_app(self):
        """How many requests the app has seen, this question not among them."""
        status = fetch(f"http://127.0.0.1:{self.impostor_port}/status")
        self.asked = getattr(self, "asked", 0) + 1
        return int(status.splitlines()[2].split()[2]) - self.asked

    def metric(self, name, side="inbound", **labels):
        """The sum of the samples of a metric that have these labels; 0 if there is none."""
        total = 0.0
        for line in fetch(f"http://127.0.0.1:{self.admin[side]}/metrics").splitlines():
            sample = re.match(r"(\w+)(\{[^}]*\})? (\S+)", line)
            if sample and sample[1] == name and all(f'{key}="{value}"' in (sample[2] or "") for key, value in labels.items()):
                total += float(sample[3])
        return total

    def series(self, name, side="inbound"):
        """The samples of a metric, by their labels as text."""
        text = fetch(f"http://127.0.0.1:{self.admin[side]}/metrics")
        return {sample[1]: float(sample[2]) for sample in re.finditer(rf"^{name}\{{(.*)\}} (\S+)", text, re.MULTILINE)}


def fetch(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


class Load:
    """An honest load through both sidecars while the block runs on: `rate` requests a second for `seconds`.

    A client rests between an answer and its next request, so what an answer takes comes on top: `answer_ms` is what to leave
    of the rest for it. `result()` waits for the end and gives requests, seconds, failures, p50_us and p99_us. Nothing is
    raised for a failure.
    """

    def __init__(self, pair, rate, seconds, clients=CLIENTS, answer_ms=0):
        pace_ms = max(clients * 1000 / rate - answer_ms, 0)
        command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "10s", "-s", machine.HERE / "load.lua", "-H", "Host: orders",
                   f"http://127.0.0.1:{pair.outbound_port}{ALLOWED}"]
        self.popen = subprocess.Popen([str(part) for part in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                      env={**os.environ, "PACE_MS": str(pace_ms)})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self.popen.stdout.close()

    def end(self):
        """The result of the load so far, which is over."""
        self.popen.send_signal(signal.SIGINT)
        return self.result()

    def result(self):
        text, _ = self.popen.communicate()
        line = re.search(r"^RESULT (.*)$", text, re.MULTILINE)
        if not line:
            raise Failure(f"wrk: {text}")
        sample = json.loads(line[1])
        return {**sample, "failures": sample["errors"], "how": sample["failures"]}


class Beside:
    """Calls `ask` at `rate` while the block runs; `counts` has what came of it, "" for all is well."""

    def __init__(self, rate, ask):
        self.rate, self.ask, self.counts, self.over = rate, ask, Counter(), threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def _run(self):
        while not self.over.wait(1 / self.rate):
            try:
                self.counts[self.ask()] += 1
            except OSError as error:
                self.counts[type(error).__name__] += 1

    @property
    def asked(self):
        return sum(self.counts.values())

    @property
    def failed(self):
        return {how: count for how, count in self.counts.items() if how}


def ask_alone(pair):
    """One request on a connection of its own."""
    with socket.create_connection(("127.0.0.1", pair.outbound_port), timeout=10) as connection:
        connection.sendall(f"GET {ALLOWED} HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    return "" if answer.startswith(b"HTTP/1.1 200 ") and b'"app"}' in answer else str(answer[:40])


def ask_ready(pair):
    for side in SIDES:
        try:
            fetch(f"http://127.0.0.1:{pair.admin[side]}/ready")
        except urllib.error.HTTPError as refused:
            return f"{side} {refused.code}: {refused.read()[:200]}"
    return ""


@dataclass
class Seen:
    """What a process used between two moments: CPU in seconds, memory in bytes."""

    cpu: float
    rss_before: int
    rss_peak: int
    rss_after: int

    @property
    def growth(self):
        return self.rss_peak - self.rss_before


class Watch:
    """Samples memory of a `machine.Process` while the block runs; `seen` is there afterwards."""

    def __init__(self, process, every=0.02):
        self.process, self.every = process, every
        self.over = threading.Event()

    def __enter__(self):
        self.start = self.process.usage().rss, cpu_seconds(self.process)
        self.peak = self.start[0]
        self.thread = threading.Thread(target=self._sample)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        (before, cpu), after = self.start, self.process.usage().rss
        self.seen = Seen(cpu_seconds(self.process) - cpu, before, max(self.peak, after), after)

    def _sample(self):
        statm = Path(f"/proc/{self.process.popen.pid}/statm")
        while not self.over.wait(self.every):
            try:
                self.peak = max(self.peak, int(statm.read_text().split()[1]) * PAGE)
            except FileNotFoundError:
                return  # It died; whoever uses the figures will notice.


def cpu_seconds(process):
    """The CPU time of all its threads, to the microsecond: the clock in /proc/PID/stat has steps of 10 ms."""
    tasks = Path(f"/proc/{process.popen.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def descriptors(process):
    """How many file descriptors a process has open."""
    return sum(1 for _ in Path(f"/proc/{process.popen.pid}/fd").iterdir())


def sink(port):
    """A listener on loopback that accepts and never reads; close it to end it. Gives the socket."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Little of a body disappears in the kernel's buffers.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listener.bind(("127.0.0.1", port))
    listener.listen(256)
    kept = []

    def accept():
        while True:
            try:
                kept.append(listener.accept()[0])
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    return listener


def table(head, rows):
    """Prints rows of texts under their heads, in Markdown."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |", flush=True)


def eventually(condition, seconds):
    """Whether `condition()` became true within the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()
