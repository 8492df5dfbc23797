"""An app that keeps every octet it is sent and reads requests as strictly as RFC 9112 allows."""

import re
import socket
import threading
import unicodedata
from urllib.parse import unquote

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Fault(Exception):
    """Octets that are no sequence of requests with one framing each; the text says why."""


class Recorder:
    """Listens on a loopback port and answers each whole request with 200; a context manager."""

    def __init__(self, port):
        self.listener = socket.create_server(("127.0.0.1", port))
        self.lock = threading.Lock()
        self.targets, self.faults = [], []

    def __enter__(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.close()

    def take(self):
        """Targets of whole requests and faults with their octets, since this was last asked."""
        with self.lock:
            taken = self.targets, self.faults
            self.targets, self.faults = [], []
        return taken

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.record, args=[connection], daemon=True).start()

    def record(self, connection):
        octets = b""
        with connection:
            while True:
                try:
                    received = connection.recv(65536)
                except OSError:
                    received = b""
                octets += received
                try:
                    requests, octets = read(octets)
                except Fault as fault:
                    self.tell([], [(str(fault), octets)])
                    return
                # Told before they are answered, so that who sees the answer finds them here.
                self.tell(requests, [("breaks off in its head", octets)] if not received and octets and b"\r\n\r\n" not in octets else [])
                if not received:
                    return
                try:
                    connection.sendall(ANSWER * len(requests))
                except OSError:
                    return

    def tell(self, targets, faults):
        with self.lock:
            self.targets += targets
            self.faults += faults


def read(octets):
    """The targets of the whole requests at the start, and what is left."""
    targets = []
    while (end := octets.find(b"\r\n\r\n")) >= 0:
        lines = octets[:end].decode("latin-1").split("\r\n")
        length = body_length(lines[1:], octets[end + 4:])
        if length is None:
            break
        line = lines[0].split(" ")
        if len(line) != 3:
            raise Fault("a first line of other than three words")
        targets.append(line[1])
        octets = octets[end + 4 + length:]
    return targets, octets


def body_length(fields, rest):
    """The length of the body at the start of `rest`; None until it is all there."""
    if any(c in field for field in fields for c in "\r\n\0"):
        raise Fault("a bare CR or LF, or a NUL")
    named = [(name.lower(), value.strip()) for name, _, value in (field.partition(":") for field in fields)]
    lengths = [value for name, value in named if name == "content-length"]
    codings = [value for name, value in named if name == "transfer-encoding"]
    if lengths and codings:
        raise Fault("a length beside a coding")
    if len(lengths) > 1 or codings not in ([], ["chunked"]):
        raise Fault("several lengths or an unknown coding")
    if codings:
        return chunks_length(rest)
    if lengths and not re.fullmatch("[0-9]{1,18}", lengths[0]):
        raise Fault("a length that is no number")
    length = int(lengths[0]) if lengths else 0
    return length if len(rest) >= length else None


def chunks_length(rest):
    at = 0
    while (end := rest.find(b"\r\n", at)) >= 0:
        size = rest[at:end].partition(b";")[0]
        if not re.fullmatch(b"[0-9A-Fa-f]{1,8}", size):
            raise Fault("a chunk size that is none")
        at = end + 2
        if int(size, 16) == 0:
            last = rest.find(b"\r\n\r\n", end)
            return None if last < 0 else last + 4
        at += int(size, 16)
        if len(rest) < at + 2:
            return None
        if rest[at:at + 2] != b"\r\n":
            raise Fault("a chunk without its end")
        at += 2
    return None


def resolves_under_admin(target):
    """Whether some server takes this target for one under /admin: decoded, resolved and folded in every way in use."""
    path = re.sub("^[a-z]+://[^/]*", "", target.partition("?")[0].partition("#")[0], flags=re.IGNORECASE)
    for _ in range(3):
        path = unquote(path)
    path = unicodedata.normalize("NFKC", path).casefold().replace("\\", "/").replace("\0", "")
    segments = []
    for segment in path.split("/"):
        segment = segment.partition(";")[0].strip(" \t\r\n")
        if segment == "..":
            segments = segments[:-1]
        elif segment not in ("", "."):
            segments.append(segment.rstrip("."))
    return segments[:1] == ["admin"]
