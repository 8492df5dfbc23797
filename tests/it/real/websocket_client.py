"""Goes through what WebSockets can do, and prints a line for each.

    websocket_client.py HOST:PORT            # all of it
    websocket_client.py HOST:PORT PATH       # the status of one attempt, or "open" and then the code of its end
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
elif len(sys.argv) > 2:
    attempt(sys.argv[2])
else:
    echo()
    fragments()
    pinged()
    closed(1000, "done")
    closed(1011, "trouble")
    closed(4321, "own")
