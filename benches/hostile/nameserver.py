"""A DNS server that has one address for each of its names, and moods."""

import socket
import struct
import threading

SERVFAIL, NXDOMAIN = 2, 3


class Nameserver:
    """Answers over UDP on a loopback port of its own. `mood` is well, silent, servfail, nxdomain, or late by `LATE`."""

    LATE = 1.5

    def __init__(self, ttl=1):
        self.names, self.mood, self.ttl = {}, "well", ttl
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            query, client = self.socket.recvfrom(4096)
            if self.mood == "late":
                threading.Timer(self.LATE, self._answer, [query, client]).start()
            elif self.mood != "silent":
                self._answer(query, client)

    def _answer(self, query, client):
        self.socket.sendto(self.answer(query), client)

    def answer(self, query):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        question = query[12 : at + 5]
        address = self.names.get(".".join(labels))
        is_a = question[-4:-2] == b"\x00\x01"
        code = {"servfail": SERVFAIL, "nxdomain": NXDOMAIN}.get(self.mood, 0 if address else NXDOMAIN)
        answers = b""
        if code == 0 and is_a:
            answers = struct.pack("!HHHIH", 0xC00C, 1, 1, self.ttl, 4) + socket.inet_aton(address)
        # An answer, to a query that wanted recursion, which is available.
        return query[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, bool(answers), 0, 0) + question + answers
