"""Callers of a CA, over its JSON: a fleet that renews and obeys, and three kinds that ask without end.

Each runs in a process of its own, begun with `multiprocessing`; they know the CA by port and bundle.
"""

import asyncio
import contextlib
import json
import random
import re
import resource
import socket
import ssl
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from measure import Failure

NAME = "ca.bench.test"
# What sidecars allow a connection, and an attempt.
CONNECT, ATTEMPT = 5, 15
LENGTH = re.compile(rb"content-length: (\d+)")
# Addresses of those who ask without end. The fleet has another, as if behind one gateway.
SOURCES = 16
READERS = 64
# Connections of strangers that are kept open at a time: more than the CA has places (8192). Other files need some as well.
OPEN, OTHERS = 9000, 100


@dataclass
class Member:
    """A name with its certificate and key in files, and the request that it renews with."""

    name: str
    chain: str
    key: str
    csr: str

    def context(self, bundle):
        context = ssl.create_default_context(cafile=bundle)
        context.load_cert_chain(self.chain, self.key)
        return context

    def request(self, more=None):
        body = json.dumps({"csr": self.csr, **(more or {})})
        return (f"POST /v1/renew HTTP/1.1\r\nHost: {NAME}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode()


@dataclass
class Lived:
    """What the fleet went through: renewals as (when, seconds from the first try, seconds left of the old one), tries that
    were refused and why, and names of those whose certificates ended."""

    renewals: list = field(default_factory=list)
    refused: list = field(default_factory=list)
    expired: list = field(default_factory=list)


def live(port, bundle, members, life, until):
    """Keeps every member's certificate valid until then, as sidecars do: a connection for each try, waits that double, and no
    try before the time that was told."""
    async def all_of_them():
        lived = Lived()
        await asyncio.gather(*(_live(port, bundle, member, life, until, lived) for member in members))
        return lived

    return asyncio.run(all_of_them())


async def _live(port, bundle, member, life, until, lived):
    end, due = None, time.time() + random.uniform(0, 3)
    while due < until:
        await asyncio.sleep(max(due - time.time(), 0))
        first, pause, told = time.time(), 0.25, None
        while True:
            try:
                status, headers, reply = await asyncio.wait_for(_renew(port, bundle, member, life), ATTEMPT)
                if status == 200:
                    break
                told = float(headers.get("retry-after", 0)) or None
                lived.refused.append((time.time(), headers.get("tipstaff-reason")))
            except (OSError, ValueError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
                lived.refused.append((time.time(), type(error).__name__))
                told = None
            if end and time.time() > end:
                lived.expired.append(member.name)
                return
            wait = random.uniform(pause / 2, pause)
            await asyncio.sleep(told + random.uniform(0, told / 2) if told else wait)
            pause = min(2 * pause, life / 10)
        now = time.time()
        if end and now > end:
            lived.expired.append(member.name)
            return
        if end:
            lived.renewals.append((now, now - first, end - now))
        certificate = reply["certificate"]
        chain = "".join(f"-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n" for der in certificate["chain"])
        with open(member.chain, "w", encoding="ascii") as file:
            file.write(chain)
        end, due = (int(certificate[key]) / 1000 for key in ("notAfterUnixMs", "renewAtUnixMs"))


async def _renew(port, bundle, member, life):
    opened = asyncio.open_connection("127.0.0.1", port, ssl=member.context(bundle), server_hostname=NAME)
    reader, writer = await asyncio.wait_for(opened, CONNECT)
    try:
        writer.write(member.request({"ttlSeconds": life}))
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        return int(first.split()[1]), headers, json.loads(body)
    finally:
        writer.close()


def renew_without_end(port, bundle, members, connections, seconds):
    """Renewals over kept connections, each when the last is answered, whatever it says. Gives how many were answered."""
    requests = [(member.context(bundle), member.request()) for member in members]
    return _ask(port, requests, connections, seconds)


def read_without_end(port, bundle, seconds):
    """The bundle, over kept connections of strangers, and over new ones when those end. Gives how many were answered."""
    context = ssl.create_default_context(cafile=bundle)
    request = f"GET /bundle HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()
    return _ask(port, [(context, request)], READERS, seconds)


def _ask(port, requests, connections, seconds):
    end, counts = time.monotonic() + seconds, [0] * connections

    def caller(number):
        context, request = requests[number % len(requests)]
        while time.monotonic() < end:
            with contextlib.suppress(OSError), _connection(port, number, context) as stream:
                while time.monotonic() < end:
                    stream.sendall(request)
                    _await_answer(stream)
                    counts[number] += 1
            time.sleep(0.01)

    threads = [threading.Thread(target=caller, args=(number,), daemon=True) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 10)
    return sum(counts)


def _connection(port, number, context):
    plain = socket.create_connection(("127.0.0.1", port), 10, (f"127.0.1.{1 + number % SOURCES}", 0))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname=NAME)


def _await_answer(stream):
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += _read(stream)
    head, _, body = answer.partition(b"\r\n\r\n")
    left = int(LENGTH.search(head)[1]) - len(body)
    while left > 0:
        left -= len(_read(stream))


def _read(stream):
    data = stream.recv(65536)
    if not data:
        raise ConnectionResetError
    return data


def connect_without_end(port, bundle, seconds):
    """A hello on each of as many new connections as there can be, and nothing after it. Gives how many."""
    del bundle
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < OPEN + OTHERS:
        raise Failure(f"expected a hard limit of at least {OPEN + OTHERS} open files, found {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN + OTHERS, hard))
    hello, kept, made = _hello(), deque(), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        client = socket.socket()
        client.bind((f"127.0.1.{1 + made % SOURCES}", 0))
        client.settimeout(1)
        try:
            client.connect(("127.0.0.1", port))
            client.send(hello)
        except OSError:
            client.close()
            continue
        made += 1
        kept.append(client)
        if len(kept) > OPEN:
            kept.popleft().close()
    for client in kept:
        client.close()
    return made


def _hello():
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(into, out, server_hostname=NAME).do_handshake()
    return out.read()
