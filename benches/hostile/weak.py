"""An app whose answers come as slowly as the network takes them, or break off."""

import socket
import struct
import threading

PIECE = 16 << 10
# A close that says so with a reset, and drops what was not sent.
RESET = struct.pack("ii", 1, 0)
LENGTH, CHUNKED, CLOSE = "length", "chunked", "close"


class Weak:
    """Listens on a loopback port of the host that made it.

    GET /attack/length/N: N octets; with /attack/half/length, chunked or close, /reset or /end: half of a body of 1 MiB, framed as
    it says, then a reset or an end. POST anywhere: how many octets came.
    """

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, connection.makefile("rb") as lines:
            try:
                while request := lines.readline():
                    fields = {}
                    while (line := lines.readline().strip()):
                        name, _, value = line.partition(b":")
                        fields[name.lower()] = value.strip()
                    method, path, _ = request.decode().split()
                    came = len(lines.read(int(fields.get(b"content-length", 0))))
                    if not self._answer(connection, method, path.strip("/").split("/")[1:], came):
                        return
            except OSError:
                pass

    def _answer(self, connection, method, path, came):
        """Whether the connection can be used again."""
        if method == "POST" or path[0] not in [LENGTH, "half"]:
            body = str(came).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            return True
        if path[0] == LENGTH:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n" % path[1].encode())
            connection.sendall(bytes(int(path[1])))
            return True
        _, framing, end = path
        fields = {LENGTH: b"Content-Length: 1048576", CHUNKED: b"Transfer-Encoding: chunked", CLOSE: b"Connection: close"}[framing]
        connection.sendall(b"HTTP/1.1 200 OK\r\n%s\r\n\r\n" % fields)
        for _ in range((1 << 19) // PIECE):
            start, rest = (b"%x\r\n" % PIECE, b"\r\n") if framing == CHUNKED else (b"", b"")
            connection.sendall(start + bytes(PIECE) + rest)
        if end == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        return False
