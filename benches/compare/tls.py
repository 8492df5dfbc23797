"""Clients of the inbound side that are sidecars of the caller: TLS 1.3, the caller's certificate, no resumption."""

import socket
import ssl
import statistics
import threading
import time

import pki
from checks import ALLOWED
from machine import Failure

HANDSHAKE_CLIENTS = 4
HTTP1, HTTP2 = "http/1.1", "h2"
REQUEST = f"GET {ALLOWED} HTTP/1.1\r\nHost: orders\r\n\r\n".encode()


def context(pair, protocol):
    """What connections to `pair` share; none of them keeps a session for the next."""
    tls = anonymous(pair, protocol)
    tls.load_cert_chain(pair.authority.certificate(pki.FRONTEND))
    return tls


def anonymous(pair, protocol):
    """The same without a certificate."""
    tls = ssl.create_default_context(cafile=pair.authority.bundle)
    tls.check_hostname = False
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.set_alpn_protocols([protocol])
    return tls


def connect(pair, tls):
    plain = socket.create_connection(("127.0.0.1", pair.inbound_port), timeout=10)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return tls.wrap_socket(plain)


def ask(pair, connection):
    """One HTTP/1.1 request, answered."""
    connection.sendall(REQUEST)
    expect_answer(pair, connection)


def expect_answer(pair, connection):
    """Reads one HTTP/1.1 answer: a small one, which may come in two pieces."""
    answer = connection.recv(4096)
    if not answer.startswith(b"HTTP/1.1 200"):
        raise Failure(f"{pair.name}: {answer[:200]}")
    while b"\r\n\r\n" not in answer or b'"app"}' not in answer:
        more = connection.recv(4096)
        if not more:
            raise Failure(f"{pair.name}: the answer ends early: {answer[-200:]}")
        answer += more


def ask_http2(pair, connection):
    """One HTTP/2 request, answered: just as much of RFC 9113 and RFC 7541 as that takes."""
    # :method GET and :scheme https from the static table; :authority and :path as literals without indexing.
    block = b"\x82\x87" + b"".join(bytes([name, len(text)]) + text for name, text in [(1, b"orders"), (4, ALLOWED.encode())])
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS) + frame(HEADERS, block, END_STREAM | END_HEADERS, 1))
    received = connection.makefile("rb")
    while True:
        head = received.read(9)
        if len(head) < 9:
            raise Failure(f"{pair.name}: HTTP/2: the connection ends before the answer")
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:9], "big")
        payload = received.read(int.from_bytes(head[:3], "big"))
        if kind == SETTINGS and not flags & ACK:
            connection.sendall(frame(SETTINGS, flags=ACK))
        elif kind == HEADERS and STATUS_200 not in payload[:4]:
            raise Failure(f"{pair.name}: HTTP/2: not a 200: {payload[:20].hex()}")
        elif kind in (RST_STREAM, GOAWAY):
            raise Failure(f"{pair.name}: HTTP/2: frame {kind} for an answer: {payload.hex()}")
        if stream == 1 and kind in (DATA, HEADERS) and flags & END_STREAM:
            received.close()
            return


DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
ACK = END_STREAM = 1
END_HEADERS = 4
STATUS_200 = 0x88  # In the static table; only changes of the table's size may come before it.


def frame(kind, payload=b"", flags=0, stream=0):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def new_connections(pair, seconds):
    """A sample of clients that make a new connection with a full handshake for each request."""
    tls, times, failures = context(pair, HTTP1), [], []
    deadline = time.monotonic() + seconds

    def client():
        try:
            while (start := time.monotonic()) < deadline:
                with connect(pair, tls) as connection:
                    ask(pair, connection)
                times.append(time.monotonic() - start)
        except (OSError, Failure) as failure:
            failures.append(failure)

    clients = [threading.Thread(target=client) for _ in range(HANDSHAKE_CLIENTS)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    if failures:
        raise Failure(f"{pair.name}: new connection {len(times)}: {failures[0]}")
    percentiles = statistics.quantiles(times, n=100)
    return {"requests": len(times), "seconds": seconds, "p50_us": percentiles[49] * 1e6, "p99_us": percentiles[98] * 1e6}


def idle_each(pair, count, protocol, running):
    """Bytes of memory that each of `count` connections costs the inbound side, idle after one request.

    They stay open until `running` ends. None if the pair does not speak `protocol` between its sides.
    """
    tls = context(pair, protocol)
    if not speaks(pair, tls, protocol):
        return None
    before = pair.inbound.usage().rss
    for _ in range(count):
        connection = running.enter_context(connect(pair, tls))
        (ask if protocol == HTTP1 else ask_http2)(pair, connection)
    return (pair.inbound.usage().rss - before) / count


def speaks(pair, tls, protocol):
    """Whether the inbound side agrees to `protocol` by ALPN; some refuse the handshake, others agree to nothing."""
    try:
        with connect(pair, tls) as connection:
            return connection.selected_alpn_protocol() == protocol
    except ssl.SSLError as refused:
        if "no application protocol" not in str(refused):  # Python has no constant for this alert.
            raise
        return False


def busy(pair, count, turns, running):
    """Peak memory of the inbound side with `count` connections that all have a request under way, `turns` times."""
    tls = context(pair, HTTP1)
    connections = [running.enter_context(connect(pair, tls)) for _ in range(count)]
    pair.inbound.forget_peak()
    for _ in range(turns):
        for connection in connections:
            connection.sendall(REQUEST)
        for connection in connections:
            expect_answer(pair, connection)
    return pair.inbound.usage().peak


def nothing_to_resume(pair, protocol):
    """Raises Failure if the inbound side gives out what a later handshake could be shortened with."""
    with connect(pair, context(pair, protocol)) as connection:
        ask(pair, connection)
        if connection.session.has_ticket:
            raise Failure(f"{pair.name}: the inbound side hands out session tickets")
