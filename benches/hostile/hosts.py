"""Hosts of their own: network namespaces, each with a cable to the first one. Needs root; nothing outlives the process.

A thread is on one host at a time, and what it starts (programs, sockets, threads) is there for good.
"""

import ctypes
import os
import subprocess
from contextlib import contextmanager

from measure import Failure

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
# The bucket is one packet of loopback's, and what waits for it is a tenth of a second.
SHAPE = "tbf rate {rate} burst 16kb latency 100ms"
VANISHED = """table inet lost { chain in { type filter hook input priority 0; iifname "cable" drop; };
chain out { type filter hook output priority 0; oifname "cable" drop; }; }"""
REFUSES = 'table inet lost { chain in { type filter hook input priority 0; iifname "cable" meta l4proto tcp reject with tcp reset; }; }'


class Host:
    """A new network namespace. `near` is the first one, where the caller is; without it this is that one."""

    made = 0

    def __init__(self, near=None):
        before = own() if near else None
        check(LIBC.unshare(CLONE_NEWNET))
        self.namespace = own()
        run("ip", "link", "set", "lo", "up")
        if near:
            Host.made += 1
            self.gateway, self.address = (f"10.77.{Host.made}.{end}" for end in (1, 2))
            run("ip", "link", "add", "cable", "type", "veth", "peer", "name", f"to{Host.made}", "netns", f"/proc/{os.getpid()}/fd/{before}")
            run("ip", "addr", "add", f"{self.address}/24", "dev", "cable")
            run("ip", "link", "set", "cable", "up")
            self.ends = [(self, "cable"), (near, f"to{Host.made}")]
            check(LIBC.setns(before, CLONE_NEWNET))
            os.close(before)
            run("ip", "addr", "add", f"{self.gateway}/24", "dev", f"to{Host.made}")
            run("ip", "link", "set", f"to{Host.made}", "up")

    @contextmanager
    def here(self):
        """The calling thread is on this host while the block runs."""
        before = own()
        check(LIBC.setns(self.namespace, CLONE_NEWNET))
        try:
            yield self
        finally:
            check(LIBC.setns(before, CLONE_NEWNET))
            os.close(before)

    def shape(self, rate):
        """The cable carries no more than this, either way."""
        for host, device in self.ends:
            with host.here():
                run("tc", "qdisc", "add", "dev", device, "root", *SHAPE.format(rate=rate).split())

    def vanish(self):
        """From now on nothing comes through, and nobody is told."""
        with self.here():
            run("nft", VANISHED)

    def refuse(self):
        """From now on whoever sends anything over TCP is told that there is no such connection."""
        with self.here():
            run("nft", REFUSES)

    def come_back(self):
        with self.here():
            run("nft", "delete table inet lost")


def own():
    """The namespace of this thread, as a descriptor."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def run(*command):
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)}: {done.stdout.strip()}")


def check(result):
    if result != 0:
        raise Failure(f"cannot make or enter a network namespace: {os.strerror(ctypes.get_errno())}; it needs root")
