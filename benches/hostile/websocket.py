"""An app that agrees to WebSockets, and clients that open them through both sidecars."""

import selectors
import socket
import threading

from machine import Failure

ASK = (b"GET /attack/websocket HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
       b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
SWITCH = (b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
          b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
# A masked text of five letters (RFC 6455, section 5.7).
HELLO = bytes.fromhex("8185 37fa213d 7f9f4d5158")
PROFILE = """apiVersion: tipstaff.dev/v1alpha1
kind: HttpProfile
metadata: {name: websockets, namespace: shop}
spec:
  to: ["spiffe://bench.test/ns/shop/sa/orders"]
  upgrade: [websocket]
"""


class App:
    """Agrees to every upgrade and then says back what it hears, on a thread of its own."""

    def __init__(self, port):
        self.listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ, b"")
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.listener:
                    self.selector.register(self.listener.accept()[0], selectors.EVENT_READ, b"")
                else:
                    self._hear(key.fileobj, key.data)

    def _hear(self, connection, head):
        """`head` is what has come of the request; None once it is answered."""
        try:
            heard = connection.recv(4096)
            if not heard:
                raise ConnectionResetError
            if head is None:
                return connection.sendall(heard)
            head += heard
            if head.endswith(b"\r\n\r\n"):
                connection.sendall(SWITCH)
                head = None
            self.selector.modify(connection, selectors.EVENT_READ, head)
        except ConnectionError:
            self.selector.unregister(connection)
            connection.close()
        return None


def opened(pair):
    """A WebSocket on which one text went there and came back."""
    connection = socket.create_connection(("127.0.0.1", pair.outbound_port), timeout=10)
    connection.sendall(ASK)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        heard = connection.recv(1)  # No more than the head.
        if not heard:
            raise Failure(f"the connection ends: {answer}")
        answer += heard
    if not answer.startswith(b"HTTP/1.1 101 "):
        raise Failure(f"no upgrade: {answer}")
    speak(connection)
    return connection


def speak(connection):
    connection.sendall(HELLO)
    heard = b""
    while len(heard) < len(HELLO):
        more = connection.recv(len(HELLO) - len(heard))
        if not more:
            raise Failure("a WebSocket has ended")
        heard += more
    if heard != HELLO:
        raise Failure(f"other bytes came back: {heard}")
