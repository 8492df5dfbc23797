"""The attacks on an HTTP/2 server: octets made beforehand, so that sending them costs the attacker next to nothing."""

from dataclasses import dataclass
from typing import Callable

from frames import (ACK, CONTINUATION, DATA, END_STREAM, GOAWAY, HEADERS, INDEXED, INDEXING, INITIAL_WINDOW_SIZE, OPEN, PING, PREFACE, PRIORITY,
                    SETTINGS, WHOLE, frame, integer, pack, request, reset, settings, text, window_update)

CALM = {"ENHANCE_YOUR_CALM"}
MILLION = 1_000_000


@dataclass
class Attack:
    """`octets(count)` are sent after the preface, SETTINGS and `first`; `count` is in frames, or pairs of frames."""

    name: str
    octets: Callable[[int], bytes]
    count: int
    codes: set
    connections: int = 1
    first: bytes = b""
    most_requests: int = 300
    reads: bool = True
    # Seconds that a patient attacker waits before it resets what it has asked for; `octets` is not asked then.
    pause: float = 0.0
    # Closing the connection is not asked for: the frames are within what HTTP/2 lets a caller do.
    may_stay: bool = False

    @property
    def start(self):
        return PREFACE + settings() + frame(SETTINGS, ACK) + self.first


def streams(count, each, first=3):
    return b"".join(map(each, range(first, first + 2 * count, 2)))


def rapid_reset(count):
    head, last = b"\x00\x00\x04\x01\x05", b"\x00\x00\x04\x03\x00"
    return streams(count, lambda stream: head + (number := pack(">I", stream)) + INDEXED + last + number + b"\x00\x00\x00\x08")


def opened(*blocks):
    """Requests with bodies to come on streams 1, 3, ..."""
    return b"".join(frame(HEADERS, OPEN, 1 + 2 * n, block) for n, block in enumerate(blocks))


UPLOAD = request("/attack/x", "POST")
FIRST = frame(HEADERS, WHOLE, 1, INDEXING)
# An entry that fills the dynamic table, to be named with one octet each.
BOMB = frame(HEADERS, WHOLE, 1, request() + b"\x40" + text("bomb") + text("b" * 4000))


def upload_then(trap):
    """A request that goes to the app, then what makes the server reset it."""
    return lambda count: streams(count, lambda stream: frame(HEADERS, OPEN, stream, UPLOAD) + trap(stream))


ATTACKS = [
    Attack("rapid reset", rapid_reset, MILLION, CALM, first=FIRST),
    Attack("rapid reset, 50 connections", rapid_reset, MILLION, CALM, 50, first=FIRST),
    Attack("rapid reset, patient", lambda _: b"", 1000, CALM, pause=0.002),
    Attack("made you reset: window overflow", upload_then(lambda stream: window_update(stream, 0x7FFFFFFF)), 100_000, CALM),
    Attack("made you reset: window update of 0", upload_then(lambda stream: window_update(stream, 0)), 100_000, {"PROTOCOL_ERROR"}),
    Attack("made you reset: depends on itself", upload_then(lambda stream: frame(PRIORITY, 0, stream, pack(">IB", stream, 0))), 100_000, CALM),
    Attack("made you reset: longer than its length", lambda count: streams(count, lambda stream: frame(
        HEADERS, OPEN, stream, UPLOAD + b"\x0f\x0d" + text("1")) + frame(DATA, END_STREAM, stream, b"xx")), 100_000, CALM),
    Attack("made you reset: trailers go on", upload_then(lambda stream: frame(HEADERS, OPEN, stream, b"\x00" + text("x") + text("y"))), 100_000, CALM),
    Attack("continuation, empty", lambda count: frame(CONTINUATION, 0, 1) * count, MILLION, CALM, first=frame(HEADERS, 0, 1, request())),
    Attack("continuation, full", lambda count: frame(CONTINUATION, 0, 1, (b"\x00" + text("a") + text("b" * 120)) * 130) * count, 1000, CALM,
           first=frame(HEADERS, 0, 1, request())),
    Attack("data, empty", lambda count: frame(DATA, 0, 1) * count, MILLION, CALM, first=opened(UPLOAD)),
    Attack("data, padding only", lambda count: frame(DATA, 0x8, 1, b"\x00") * count, 60_000, CALM, first=opened(UPLOAD)),
    Attack("data, an octet each", lambda count: frame(DATA, 0, 1, b"x") * count, 60_000, CALM, first=opened(UPLOAD), may_stay=True),
    Attack("headers, empty", lambda count: streams(count, lambda stream: frame(HEADERS, WHOLE, stream)), MILLION, CALM),
    Attack("hpack bomb", lambda count: streams(count, lambda stream: frame(HEADERS, WHOLE, stream, request() + b"\xbe" * 16000)), 1000, CALM, first=BOMB),
    Attack("hpack bomb, small", lambda count: streams(count, lambda stream: frame(HEADERS, WHOLE, stream, request() + b"\xbe" * 15)), 100_000,
           CALM, first=BOMB),
    Attack("hpack, table size updates", lambda count: streams(count, lambda stream: frame(
        HEADERS, WHOLE, stream, (b"\x20" + integer(4096, 5, 0x20)) * 4000 + request())), 2000, CALM),
    Attack("ping", lambda count: frame(PING, 0, 0, bytes(8)) * count, MILLION, CALM),
    Attack("ping, answers not read", lambda count: frame(PING, 0, 0, bytes(8)) * count, MILLION, CALM, reads=False),
    Attack("settings, window to and fro", lambda count: (settings((INITIAL_WINDOW_SIZE, 1)) + settings((INITIAL_WINDOW_SIZE, 65535))) * (count // 2),
           MILLION, CALM, first=opened(*[UPLOAD] * 100)),
    Attack("settings, answers not read", lambda count: settings((INITIAL_WINDOW_SIZE, 1)) * count, MILLION, CALM, reads=False),
    Attack("settings never asked for", lambda count: frame(SETTINGS, ACK) * count, MILLION, CALM | {"PROTOCOL_ERROR"}),
    Attack("priority", lambda count: frame(PRIORITY, 0, 5, pack(">IB", 3, 7)) * count, MILLION, CALM),
    Attack("unknown kind", lambda count: frame(0xBB, 0, 1, b"x") * count, MILLION, CALM),
    Attack("window update of the connection", lambda count: window_update(0, 1) * count, MILLION, CALM),
    Attack("window update of a stream", lambda count: window_update(1, 1) * count, MILLION, CALM, first=opened(UPLOAD)),
    Attack("window of an octet", lambda count: (window_update(1, 1) + window_update(0, 1)) * (count // 2), MILLION, CALM,
           first=settings((INITIAL_WINDOW_SIZE, 1)) + frame(HEADERS, WHOLE, 1, request("/attack/large"))),
    Attack("goaway", lambda count: frame(GOAWAY, 0, 0, bytes(8)) * count, MILLION, CALM, first=opened(*[UPLOAD] * 100)),
    Attack("resets of a stream that ended", lambda count: reset(1) * count, MILLION, CALM, first=frame(HEADERS, WHOLE, 1, request())),
    Attack("data on a stream that ended", lambda count: frame(DATA, 0, 1, b"x") * count, 60_000, CALM | {"STREAM_CLOSED", "PROTOCOL_ERROR"},
           first=frame(HEADERS, WHOLE, 1, request())),
    Attack("streams over the limit", lambda count: streams(count, lambda stream: frame(HEADERS, OPEN, stream, request("/attack/stalled", "POST"))),
           100_000, CALM, most_requests=1500),
]
