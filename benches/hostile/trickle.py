"""Clients that take their time: many connections of which each stays in one stage for as long as it is let."""

import heapq
import multiprocessing
import select
import socket
import ssl
import time
from dataclasses import dataclass

import tls

PROCESSES = 4
# Below what one process may have open, with room for whatever else it needs.
MOST_EACH = 4500


@dataclass(frozen=True)
class Stage:
    """What a client sends at once and what it then sends byte by byte, one byte every `every` seconds."""

    name: str
    shakes_hands: bool
    at_once: bytes
    slowly: bytes
    every: float
    reads: bool = True
    # Connections opened in a second: handshakes cost both sides CPU time, and their cost is not what is asked here.
    rate: int = 400


def client_hello():
    """A ClientHello, made by the TLS library for a connection that goes nowhere."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        context.wrap_bio(incoming, outgoing).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


STAGES = [
    Stage("hello", False, b"", client_hello(), 1, rate=2000),
    Stage("head", True, b"", b"GET /attack/a HTTP/1.1\r\nHost: orders\r\nX-Slow: " + b"x" * 1000, 10),
    Stage("body", True, b"POST /attack/stalled HTTP/1.1\r\nHost: orders\r\nContent-Length: 100000\r\n\r\n", b"x" * 1000, 10),
    Stage("read", True, b"GET /attack/large HTTP/1.1\r\nHost: orders\r\n\r\n", b"", 10, reads=False),
]


class Crowd:
    """`count` clients in processes of their own while the block runs."""

    def __init__(self, pair, stage, count):
        self.stage, self.count = stage, count
        self.stop = multiprocessing.Event()
        self.open = multiprocessing.Value("i", 0)
        self.failed = multiprocessing.Value("i", 0)
        processes = max(PROCESSES, -(-count // MOST_EACH))
        shares = [count // processes + (number < count % processes) for number in range(processes)]
        context = tls.context(pair, tls.HTTP1) if stage.shakes_hands else None
        self.processes = [
            multiprocessing.Process(target=self._work, args=(pair.inbound_port, context, share, stage.rate / processes), daemon=True)
            for share in shares
        ]

    def __enter__(self):
        for process in self.processes:
            process.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for process in self.processes:
            process.join(5)
            process.kill()
            process.join()

    @property
    def opened(self):
        """How many have come to their stage, or have failed to."""
        return self.open.value + self.failed.value

    def _work(self, port, context, count, rate):
        poll, clients, due = select.epoll(), {}, []
        begun = time.monotonic()
        tried = 0
        while not self.stop.is_set():
            now = time.monotonic()
            while tried < count and tried < (now - begun) * rate:
                tried += 1
                self._open(port, context, poll, clients, due)
            while due and due[0][0] <= now:
                _, number, at = heapq.heappop(due)
                self._drip(number, at, clients, due)
            for number, events in poll.poll(0.02):
                if number in clients and self._is_over(clients[number], events):
                    poll.unregister(number)
                    clients.pop(number).close()

    def _open(self, port, context, poll, clients, due):
        plain = socket.socket()
        plain.settimeout(10)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            plain.connect(("127.0.0.1", port))
            client = context.wrap_socket(plain) if context else plain
            if not self.stage.reads:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # The kernel makes it as small as it can.
            client.sendall(self.stage.at_once)
        except OSError:
            plain.close()
            with self.failed.get_lock():
                self.failed.value += 1
            return
        with self.open.get_lock():
            self.open.value += 1
        client.setblocking(False)
        number = client.fileno()
        clients[number] = client
        poll.register(number, select.EPOLLIN if self.stage.reads else select.EPOLLRDHUP)
        if self.stage.slowly:
            heapq.heappush(due, (time.monotonic() + self.stage.every, number, 0))

    def _drip(self, number, at, clients, due):
        if number not in clients or at == len(self.stage.slowly):
            return
        try:
            clients[number].send(self.stage.slowly[at:at + 1])
        except OSError:
            return  # Its end is seen by the poll.
        heapq.heappush(due, (time.monotonic() + self.stage.every, number, at + 1))

    def _is_over(self, client, events):
        if events & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP):
            return True
        try:
            return not client.recv(4096)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
