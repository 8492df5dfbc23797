"""What is checked of a pair that carries opaque TCP. The bytes are HTTP/1.1, of which its two sides know nothing."""

import ssl

import checks
import pki
import tls
from machine import Failure
from pair import BODIES

ALPN = "tipstaff-tcp"  # Peers without an ALPN of their own take it, and agree to nothing.


def check(pair, other_authority):
    """Raises Failure unless `pair` carries whatever its one caller says, for nobody else and to nobody else."""
    for path in (checks.ALLOWED, "/api/v1/customers/42"):
        answer = checks.outbound(pair, path)
        checks.expect(pair, "an answer of the app", answer, "200")
        if checks.FROM_APP not in answer[1]:
            raise Failure(f"{pair.name}: the answer is not the app's: {answer[1][:300]}")
    for size in BODIES.values():
        checks.expect_bodies(pair, size)

    trusted = pair.authority
    if not answered(pair, context(pair, trusted.certificate(pki.FRONTEND))):
        raise Failure(f"{pair.name}: the caller's certificate is refused")
    old = context(pair, trusted.certificate(pki.FRONTEND))
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    for what, refused in {
        "no certificate": context(pair, None),
        "a certificate with another ID": context(pair, trusted.certificate(pki.STRANGER)),
        "the right ID from another CA": context(pair, other_authority.certificate(pki.FRONTEND)),
        "TLS 1.2": old,
    }.items():
        if answered(pair, refused):
            raise Failure(f"{pair.name}: {what} gets through")
    # A server of the same CA that is not who the outbound side expects.
    impostor = checks.curl(f"http://127.0.0.1:{pair.to_impostor_port}{checks.ALLOWED}")
    checks.expect(pair, "an impostor behind the outbound side", impostor, "000")


def check_limit(pair):
    """Raises Failure unless `pair`, started with LOW_LIMIT, limits its caller's connections."""
    statuses, _ = checks.outbound(pair, "/api/v1/orders/[1-40]", "--header", "Connection: close")
    passed = statuses.count("200")
    if passed == 0 or statuses.count("000") != 40 - passed or passed > 20:
        raise Failure(f"{pair.name}: no limit on connections at {checks.LOW_LIMIT}/s: {statuses}")


def context(pair, certificate):
    client = tls.anonymous(pair, ALPN)
    if certificate:
        client.load_cert_chain(certificate)
    return client


def answered(pair, client):
    """Whether the app answers one who comes straight to the inbound side; a cut connection is no answer."""
    try:
        with tls.connect(pair, client) as connection:
            connection.sendall(tls.REQUEST)
            return bool(connection.recv(4096))
    except (ssl.SSLError, ConnectionError):
        return False
