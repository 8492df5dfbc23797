"""One upload that the app does not take, beside a hundred healthy streams of the same connection: they keep their p99."""

import socket
import statistics
import time

from frames import (DATA, END_STREAM, HEADERS, OPEN, PREFACE, SETTINGS, ACK, RST_STREAM, WHOLE, WINDOW_UPDATE, Reader, frame, request, settings)
from machine import Failure
from struct import unpack

STREAMS = 100
ROUNDS = 30
STREAM_WINDOW, CONNECTION_WINDOW = 65_535, 65_535


class Caller:
    """A well-behaved connection, as far as this needs one: it counts windows and updates those of the server."""

    def __init__(self, port, context):
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket, self.reader = context.wrap_socket(plain), Reader()
        self.stream, self.initial, self.connection, self.windows = 1, STREAM_WINDOW, CONNECTION_WINDOW, {}
        self.socket.sendall(PREFACE + settings() + frame(WINDOW_UPDATE, 0, 0, (1 << 30).to_bytes(4)))

    def next(self):
        self.stream += 2
        return self.stream - 2

    def read(self, seconds):
        """The streams that ended; nothing if the time is over."""
        self.socket.settimeout(seconds)
        try:
            octets = self.socket.recv(65536)
        except TimeoutError:
            return None
        if not octets:
            raise Failure("the sidecar closed a well-behaved connection")
        ended = []
        for kind, flags, stream, payload in self.reader.feed(octets):
            if kind == SETTINGS and not flags & ACK:
                given = dict(unpack(">HI", payload[at:at + 6]) for at in range(0, len(payload), 6))
                self.initial = given.get(4, self.initial)
                self.socket.sendall(frame(SETTINGS, ACK))
            elif kind == WINDOW_UPDATE and stream == 0:
                self.connection += int.from_bytes(payload)
            elif kind == WINDOW_UPDATE:
                self.windows[stream] = self.windows.get(stream, 0) + int.from_bytes(payload)
            elif kind == RST_STREAM and any(payload):  # NO_ERROR: answered without the rest of the request.
                raise Failure(f"the sidecar reset stream {stream}: {payload.hex()}")
            elif kind in (DATA, HEADERS) and flags & END_STREAM:
                ended.append(stream)
        return ended

    def stall(self):
        """An upload up to the moment when nobody takes more of it. Gives how much went."""
        stream, sent = self.next(), 0
        self.read(2)
        self.socket.sendall(frame(HEADERS, OPEN, stream, request("/attack/stalled", "POST")))
        self.windows[stream] = self.initial
        while True:
            size = min(16384, self.windows[stream], self.connection)
            if size == 0:
                if self.read(1) is None:
                    return sent
                continue
            self.socket.sendall(frame(DATA, 0, stream, bytes(size)))
            self.windows[stream] -= size
            self.connection -= size
            sent += size

    def round(self):
        """A hundred requests at once, every second one with a body: the seconds that each took."""
        octets, open_streams = [], set()
        for number in range(STREAMS):
            stream = self.next()
            open_streams.add(stream)
            if number % 2:
                octets += [frame(HEADERS, OPEN, stream, request("/attack/x", "POST")), frame(DATA, END_STREAM, stream, b"x" * 512)]
                self.connection -= 512
            else:
                octets.append(frame(HEADERS, WHOLE, stream, request()))
        begun, took = time.monotonic(), []
        self.socket.sendall(b"".join(octets))
        while open_streams:
            ended = self.read(10)
            if ended is None:
                raise Failure(f"{len(open_streams)} healthy streams hang beside a stalled upload")
            open_streams.difference_update(ended)
            took += [time.monotonic() - begun] * len(ended)
        return took


def stalled_upload(port, context):
    """p99 in ms of healthy streams without and with a stalled upload on their connection, in turns, and how much that held."""
    free, beside = Caller(port, context), Caller(port, context)
    held = beside.stall()
    free.read(2)
    times = [], []
    for _ in range(ROUNDS):
        for caller, took in zip((free, beside), times):
            took += caller.round()
    without, with_it = (statistics.quantiles(took, n=100)[98] * 1000 for took in times)
    return without, with_it, held
