"""A pair is measured only after it was seen to check what the others check."""

import subprocess

import pki
from machine import Failure
from pair import BODIES

ALLOWED = "/api/v1/orders/42"
FROM_APP = '"from": "app"'
LOW_LIMIT = 5
UPLOAD = "/api/v1/orders/upload"


def curl(url, *options):
    """The statuses and bodies of one curl run; 000 stands for a connection that was refused or cut."""
    command = ["curl", "--silent", "--max-time", "10", "--path-as-is", "--write-out", " %{http_code}\n", *map(str, options), url]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    return [line.split()[-1] for line in done.stdout.splitlines() if line.strip()[-3:].isdigit()], done.stdout


def outbound(pair, path, *options, host="orders"):
    return curl(f"http://127.0.0.1:{pair.outbound_port}{path}", "--header", f"Host: {host}", *options)


def inbound(pair, *options):
    return curl(f"https://127.0.0.1:{pair.inbound_port}{ALLOWED}", "--insecure", "--header", "Host: orders", *options)


def expect(pair, what, answer, *statuses):
    seen, body = answer
    if seen[-1:] not in [[status] for status in statuses]:
        raise Failure(f"{pair.name}: {what}: expected {' or '.join(statuses)}, got {seen[-1:]}: {body[:300]}")
    if "200" not in statuses and ('"from"' in body):
        raise Failure(f"{pair.name}: {what}: reached a server: {body[:300]}")


def check(pair, other_authority):
    """Raises Failure unless `pair` lets through exactly what it should."""
    answer = outbound(pair, ALLOWED)
    expect(pair, "an allowed call", answer, "200")
    if FROM_APP not in answer[1]:
        raise Failure(f"{pair.name}: the answer is not the app's: {answer[1][:300]}")
    expect(pair, "another path", outbound(pair, "/api/v1/customers/42"), "403")
    expect(pair, "a path below the allowed one", outbound(pair, ALLOWED + "/lines"), "403")
    expect(pair, "another method", outbound(pair, ALLOWED, "--request", "DELETE"), "403")

    for size in BODIES.values():
        expect_bodies(pair, size)

    # Straight to the inbound side. A refusal is a cut connection, a 400 (nginx, bad certificate) or a 403.
    trusted = pair.authority
    expect(pair, "the caller's certificate", inbound(pair, "--cert", trusted.certificate(pki.FRONTEND)), "200")
    expect(pair, "no certificate", inbound(pair), "000", "400")
    expect(pair, "a certificate with another ID", inbound(pair, "--cert", trusted.certificate(pki.STRANGER)), "000", "403")
    expect(pair, "the right ID from another CA", inbound(pair, "--cert", other_authority.certificate(pki.FRONTEND)), "000", "400")
    expect(pair, "TLS 1.2", inbound(pair, "--cert", trusted.certificate(pki.FRONTEND), "--tls-max", "1.2"), "000")
    # A server of the same CA that is not who the outbound side expects.
    expect(pair, "an impostor behind the outbound side", outbound(pair, ALLOWED, host="impostor"), "502", "503", "504")
    expect(pair, "a host no service names", outbound(pair, ALLOWED, host="elsewhere"), "403", "404", "421", "502", "503")


def expect_bodies(pair, size):
    """A body of `size` bytes arrives whole, in either direction."""
    statuses, body = outbound(pair, f"/api/v1/orders/{size}")
    if statuses != ["200"] or body.count("x") != size:
        raise Failure(f"{pair.name}: of a download of {size} bytes {body.count('x')} arrived: {statuses}")
    answer = outbound(pair, UPLOAD, "--upload-file", pair.folder / str(size), "--header", "Expect:")
    expect(pair, f"an upload of {size} bytes", answer, "200")
    received = int(answer[1].split('"received": ')[1].split(",")[0])
    if not size <= received < size + 8192:  # The head counts, and the framing of chunks.
        raise Failure(f"{pair.name}: of an upload of {size} bytes {received} arrived")


def check_limit(pair):
    """Raises Failure unless `pair`, started with LOW_LIMIT, limits its caller."""
    statuses, _ = outbound(pair, "/api/v1/orders/[1-40]")
    if statuses.count("200") < LOW_LIMIT or "429" not in statuses or len(statuses) != 40:
        raise Failure(f"{pair.name}: no rate limit at {LOW_LIMIT}/s: {statuses}")


def check_full_handshakes(pair):
    """Raises Failure unless the outbound side makes a new connection where it has to, with a full handshake."""
    for _ in range(2):
        answer = outbound(pair, ALLOWED, host="closing")
        expect(pair, "a server that ends each connection, and speaks HTTP/1.1 alone", answer, "200")
        if '"resumed": "."' not in answer[1]:
            raise Failure(f"{pair.name}: a resumed session: {answer[1]}")
