"""Goes through what WebSockets can do, and prints a line for each.

    websocket_client.py HOST:PORT            # all of it
    websocket_client.py HOST:PORT PATH       # the status of one attempt, or "open" and then the code of its end
    websocket_client.py HOST:PORT frames     # frames of each length, and those that break the protocol
    websocket_client.py HOST:PORT sizes      # of each length
    websocket_client.py HOST:PORT PATH talk  # sends what it reads, a message a line, and prints what it hears
"""

import random
import socket
import sys
import time

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

HOST, PORT = sys.argv[1].split(":")


def opened(path, **options):
    plain = socket.create_connection((HOST, int(PORT)), timeout=30)
    return connect(f"ws://orders{path}", sock=plain, subprotocols=["chat"], max_size=4 << 20, **options)


def talk(path):
    with opened(path) as connection:
        for line in sys.stdin:
            connection.send(line.rstrip("\n"))
            print("heard", connection.recv(timeout=30), flush=True)


def attempt(path):
    try:
        with opened(path) as connection:
            print("open", flush=True)
            try:
                connection.recv()
            except ConnectionClosed:
                print("ended", connection.close_code)
    except InvalidStatus as refused:
        response = refused.response
        print(response.status_code, response.headers.get("X-Reason", "-"), (response.body or b"").decode())


def echo():
    with opened("/ws/echo") as connection:
        print("subprotocol", connection.subprotocol)
        print("extensions", connection.response.headers.get("Sec-WebSocket-Extensions", "-").split(";")[0])
        connection.send("hällo")
        print("text", connection.recv(timeout=30))
        connection.send(b"\0\xff")
        print("binary", connection.recv(timeout=30))
        large = random.Random(1).randbytes(2 << 20)
        for _ in range(2):
            connection.send(large)
            print("2 MiB", connection.recv(timeout=30) == large)
        for number in range(1000):
            connection.send(str(number))
        print("1000 in order", [connection.recv(timeout=30) for _ in range(1000)] == [str(number) for number in range(1000)])
        print("pong", connection.ping().wait(30))
        # Longer than a connection without a request may rest.
        time.sleep(2.5)
        connection.send("rested")
        print("text", connection.recv(timeout=30))
        connection.close(4001, "enough")
    print("closed by us", connection.close_code, connection.close_reason)


def fragments():
    # Compressed they would have other lengths.
    with opened("/ws/fragments", compression=None) as connection:
        connection.send([b"a", b"bb" * 30_000, b"", b"c"])
        # The library ends an iterable with an empty one.
        print("fragments", connection.recv(timeout=30))


def sizes():
    """Each way in which a frame says its length, and one byte beside it."""
    with opened("/ws/echo", compression=None) as connection:
        for size in (0, 1, 125, 126, 127, 128, 65535, 65536, 65537, 1 << 20):
            data = random.Random(size).randbytes(size)
            text = "ä" * (size // 2)
            connection.send(data)
            connection.send(text)
            same = connection.recv(timeout=30) == data and connection.recv(timeout=30) == text
            print(size, same)


MASK = bytes(4)


def frame(first, payload, mask=0x80):
    """A frame as octets; a mask of zeros changes nothing."""
    assert len(payload) < 126
    return bytes([first, mask | len(payload)]) + (MASK if mask else b"") + payload


VIOLATIONS = {
    "text that is no UTF-8": frame(0x81, b"\xc3\x28"),
    "text that ends within a character": frame(0x01, b"\xc3") + frame(0x80, b""),
    "an opcode that is none": frame(0x83, b""),
    "a control opcode that is none": frame(0x8B, b""),
    "a bit of no extension": frame(0xA1, b""),
    "no mask": frame(0x81, b"a", 0),
    "half a ping": frame(0x09, b""),
    "a long ping": bytes([0x89, 0xFE, 0, 126]) + MASK + bytes(126),
    "more of nothing": frame(0x80, b""),
    "a message within a message": frame(0x01, b"a") + frame(0x81, b"b"),
    "a close code that is none": frame(0x88, (1005).to_bytes(2, "big")),
    "half a close code": frame(0x88, b"\x03"),
    "a message that is too long": bytes([0x82, 0xFF]) + (5 << 20).to_bytes(8, "big") + MASK,
}


def violations():
    """What breaks the protocol arrives as it was sent: the server says what is wrong with it."""
    for name, octets in VIOLATIONS.items():
        with opened("/ws/echo", compression=None) as connection:
            connection.socket.sendall(octets)
            try:
                print(name, connection.recv(timeout=30))
            except ConnectionClosed as end:
                print(name, end.rcvd.code)


def interleaved():
    """Control frames between the fragments of a message, and an empty fragment."""
    with opened("/ws/echo", compression=None) as connection:
        parts = [frame(0x01, b"one "), frame(0x89, b"ping"), frame(0x00, b""), frame(0x8A, b"pong"), frame(0x00, b"two "), frame(0x89, b""), frame(0x80, b"three")]
        for octet in b"".join(parts):
            connection.socket.sendall(bytes([octet]))
        print("interleaved", connection.recv(timeout=30))


def pinged():
    with opened("/ws/pings") as connection:
        print("the server heard our pong:", connection.recv(timeout=30))


def closed(code, reason):
    with opened(f"/ws/close/{code}/{reason}") as connection:
        connection.send("close")
        try:
            connection.recv(timeout=30)
        except ConnectionClosed as end:
            print("closed by the server", end.rcvd.code, end.rcvd.reason)


if len(sys.argv) > 3:
    talk(sys.argv[2])
elif sys.argv[2:] == ["frames"]:
    sizes()
    interleaved()
    violations()
elif sys.argv[2:] == ["sizes"]:
    sizes()
elif len(sys.argv) > 2:
    attempt(sys.argv[2])
else:
    echo()
    fragments()
    pinged()
    closed(1000, "done")
    closed(1011, "trouble")
    closed(4321, "own")
