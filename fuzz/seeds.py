#!/usr/bin/env python3
"""Writes the seeds under corpus/: from tests/vectors, and the cases written down here.

Run it after changing either; certificates and requests are minted anew, their keys are forgotten.
Needs the package `cryptography`. Files found by fuzzing are kept beside the seeds under names of their own.
"""

import base64
import datetime
import json
import pathlib
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ROOT = pathlib.Path(__file__).resolve().parent
VECTORS = ROOT.parent / "tests/vectors"
DER = serialization.Encoding.DER
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


def main():
    texts("spiffe_id", spiffe_ids())
    write("certificate", certificates())
    write("bundle", bundles())
    write("csr", requests())
    texts("join_token", ["tsj_" + "A" * 43, " tsj_" + "-_" * 21 + "8\n", "tsj_" + "A" * 42 + "B", "tsj-x", ""])
    write("issue_request", issue_requests())
    texts("request_target", [profile + target for profile in "@G" for target in targets()])
    texts("host", HOSTS)
    texts("policy_documents", POLICIES)
    texts("configuration", [(ROOT.parent / "deploy/sidecar.yaml").read_text(), *CONFIGURATIONS])
    write("h1_request", framed())
    write("h1_response", {f"{index:02}": b"\x00\x07\x01" + text.encode("latin-1") for index, text in enumerate(RESPONSES)})
    write("h1_body", {f"{index:02}": bytes([choice, 4, 0]) + text.encode("latin-1") for index, (choice, text) in enumerate(BODIES)})
    write("client_hello", {name: b"\x80" + content for name, content in hellos().items()})
    write("decision", {f"{n}": bytes((n * 37 + i * i * 11) % 256 for i in range(160)) for n in range(8)})


def hellos():
    """What openssl says first, and the same in two records."""
    def first(name):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = name is not None
        try:
            context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
        except ssl.SSLWantReadError:
            return outgoing.read()

    named = first("api.example.com")
    body = named[5:]
    records = [named[:3] + len(part).to_bytes(2, "big") + part for part in (body[:70], body[70:])]
    return {"named": named, "unnamed": first(None), "two-records": b"".join(records), "early": named + b"\x17\x03\x03\x00\x01x"}


def write(target, files):
    folder = ROOT / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def texts(target, contents):
    # Octets are written as Latin-1, as in the vectors; these files are text beyond that only in deploy/.
    encoded = [text.encode("utf-8" if target in ("configuration", "policy_documents") else "latin-1") for text in contents]
    write(target, {f"{index:02}": content for index, content in enumerate(encoded)})


def vectors(name):
    return json.loads((VECTORS / name).read_text())["vectors"]


def spiffe_ids():
    """One of each kind of error, and some that are accepted."""
    chosen = {}
    for case in vectors("spiffe/spiffe_id.json") + vectors("spiffe/trust_domain.json"):
        verdicts = tuple(sorted(case["impl"].items()))
        chosen.setdefault((verdicts, case.get("error_hint")), case["input"])
    fits = [text for text in chosen.values() if text.isascii() and len(text) < 300]
    return [*fits, "spiffe://demo.test/ns/shop/sa/front", "spiffe://demo.test/tipstaff/ca"]


def certificates():
    found = {f"minted-{name}": der for name, der in minted_chains().items()}
    for case in vectors("spiffe/x509_svid.json"):
        content = base64.b64decode(case["certs_b64"])
        if case["format"] == "pem":
            content = b"".join(certificate.public_bytes(DER) for certificate in pem(content))
        if content and len(content) < 1200:
            found[slug(case["name"])] = content
    return found


def pem(content):
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        return []


def slug(name):
    return "".join(c if c.isalnum() or c == "." else "-" for c in name)[:60]


def minted_chains():
    """Leaf, intermediate and root of P-256 keys, in the order of the target: the last one is the authority."""
    root, root_key = mint("root", None, ca=True)
    intermediate, intermediate_key = mint("intermediate", ("root", root_key), ca=True)
    leaf, _ = mint("leaf", ("intermediate", intermediate_key), uri="spiffe://demo.test/ns/shop/sa/front")
    direct, _ = mint("leaf", ("root", root_key), uri="spiffe://demo.test/a")
    other, _ = mint("root", None, ca=True)
    return {"leaf": leaf, "chain": leaf + intermediate + root, "direct": direct + root, "other-root": direct + other}


def mint(name, issuer, uri=None, ca=False):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer_name, issuer_key = issuer or (name, key)
    start = datetime.datetime(2026, 11, 1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer_name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage(ca), critical=True)
    )
    if uri:
        name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        both = [x509.ExtendedKeyUsageOID.SERVER_AUTH, x509.ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(name, critical=False).add_extension(x509.ExtendedKeyUsage(both), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(DER), key


def usage(ca):
    return x509.KeyUsage(
        digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )


def bundles():
    chains = minted_chains()
    text = x509.load_der_x509_certificate(chains["leaf"]).public_bytes(serialization.Encoding.PEM)
    found = {"pem": b"text before\n" + text + text, "der": chains["chain"], "no-pem": b"-----BEGIN CERTIFICATE-----\n"}
    for case in vectors("spiffe/spiffe_bundle.json"):
        document = json.dumps(case["doc"], separators=(",", ":")).encode()
        if len(document) < 1500:
            found[slug(case["name"])] = document
    return found


def requests():
    found = {}
    for index, case in enumerate(vectors("spiffe/csr.json")):
        try:
            der = x509.load_pem_x509_csr(case["pem"].encode()).public_bytes(DER)
        except ValueError:
            continue
        found[f"{index:02}"] = der
    key = ec.generate_private_key(ec.SECP256R1())
    return {**found, "minted": request(key), "spki": key.public_key().public_bytes(DER, SPKI)}


def request(key):
    return x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256()).public_bytes(DER)


def issue_requests():
    """Protocol buffers by hand: field numbers as in ca/proto."""
    spiffe_id, trust_domain = b"spiffe://demo.test/ns/shop/sa/front", b"demo.test"
    key = ec.generate_private_key(ec.SECP256R1())
    csr = request(key)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(csr)
    statement = b"\0".join([b"tipstaff.ca.v1/enrol", trust_domain, spiffe_id, digest.finalize()])
    proof = key.sign(statement, ec.ECDSA(hashes.SHA256()))
    spki = key.public_key().public_bytes(DER, SPKI)
    whole = field(1, spiffe_id) + field(2, csr) + field(3, spki) + field(4, proof) + field(5, b"tsj_" + b"A" * 43) + b"\x30\x3c"
    return {"issue": whole, "wrong-proof": whole.replace(b"sa/front", b"sa/other"), "renew": field(1, csr) + b"\x10\x3c", "empty": b""}


def field(number, content):
    length, varint = len(content), b""
    while length > 0x7F:
        varint += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + varint + bytes([length]) + content


def targets():
    """What the bypass corpus asks for, without its twins."""
    found = []
    for case in vectors("http/path_bypass_sample.json"):
        request = case["request"]
        if request["proto"] == "h1":
            found.append(request["line"].split(" ")[1])
        else:
            found += [value for name, value in request["pseudo"] if name == ":path"]
    extra = ["http://Orders.shop.test:80/a?b", "http://[::1]", "http://a?x", "*", "/%2e%2E/", "/a%2Fb%2F..%2Fc", "/x;..;/y"]
    return sorted({*found, *extra})


def framed():
    """The framing vectors, and a plain exchange with all that a request may have."""
    head = b"POST /a?b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nExpect: 100-continue\r\nTE: trailers\r\n\r\n"
    plain = head + b"3;x=y\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\nGET / HTTP/1.1\r\nhost:b\r\nConnection: close\r\n\r\n"
    found = {"plain": b"\x00\x05\x02" + plain, "small": b"\x01\x00\x00GET / HTTP/1.1\r\na:b\r\nc:\t d \r\n\r\n"}
    for case in vectors("http/h1_framing_sample.json"):
        content = base64.b64decode(case.get("raw_b64", ""))
        if 0 < len(content) < 1500:
            found[slug(case["id"])] = b"\x00\x07\x01" + content
    return found


HOSTS = [
    "orders", "Orders.Shop.Test.:8080\norders.shop.test:8080", "[::FFFF:1.2.3.4]:443\n[::ffff:102:304]", "127.0.0.1",
    "127.1", "0x7f.0.0.1", "0177.0.0.1", "2130706433", "1.2.3.4.5", "a..b", "a:0", "a:65536", "a:080", "user@host",
    "host:80:80", "[::1%25eth0]", "a\nb", "\nb", "a.\na", "\xe9.test", "a_b-c.9d", "",
]

GRANT = """apiVersion: tipstaff.dev/v1alpha1
kind: Grant
metadata: {name: reads-orders, namespace: shop}
spec:
  from: ["spiffe://demo.test/ns/shop/sa/front", "spiffe://demo.test/ns/*/sa/x", unauthenticated]
  to: ["spiffe://demo.test/ns/shop/sa/orders"]
  ports: [8080]
  allow:
    - {methods: [GET, HEAD], path: "/api/v1/orders/{id}", hosts: ["*.shop.test"]}
    - {methods: ["*"], path: "/public/**", headers: [{name: x-tenant, oneOf: [a, b]}, {name: x-debug, present: false}]}
    - {grpc: pay.v1.Payments, methods: [Charge, "*"]}
  purpose: {id: order-page, owner: team, ticket: T-1}
  validity: {notBefore: 2026-11-01T00:00:00Z, notAfter: 2027-02-01T00:00:00+01:00, warnBefore: 14d}
  limits:
    - {name: per-caller, key: [identity, "header:x-tenant", clientIp], rate: 200/s, burst: 400, cost: {POST: 5}, ipv6Prefix: 64}
  tests:
    - {from: ns/shop/sa/front, get: "/api/v1/orders/42", host: a.shop.test, expect: allow}
    - {from: ns/shop/sa/front, at: 2027-02-01T00:00:01Z, delete: "/api/v1/orders/42", expect: deny}
    - {from: unauthenticated, get: "/../x", expect: reject}
"""

OTHERS = """---
apiVersion: tipstaff.dev/v1alpha1
kind: Guard
metadata: {name: no-debug, namespace: tipstaff-system}
spec:
  to: ["spiffe://demo.test/ns/shop/**"]
  deny: [{path: "/debug/**"}, {methods: [PURGE]}, {path: "/admin"}]
  except: ["spiffe://demo.test/ns/ops/sa/debugger"]
  purpose: {id: surface, owner: secops}
---
apiVersion: tipstaff.dev/v1alpha1
kind: Limit
metadata: {name: total, namespace: shop}
spec:
  to: ["spiffe://demo.test/ns/shop/sa/orders"]
  match: [{path: "/search/**"}]
  limits: [{name: total, rate: 60/m}]
---
apiVersion: tipstaff.dev/v1alpha1
kind: HttpProfile
metadata: {name: p, namespace: shop}
spec: {to: ["spiffe://demo.test/ns/shop/sa/orders"], ports: [8080], encodedSlash: opaque, pathParams: literal, emptySegments: reject}
---
apiVersion: tipstaff.dev/v1alpha1
kind: Test
metadata: {name: t, namespace: shop}
spec:
  to: "spiffe://demo.test/ns/shop/sa/orders"
  tests: [{from: ns/shop/sa/front, grpc: pay.v1.Payments/Charge, headers: {x-tenant: a}, port: 8080, expect: allow}]
"""

POLICIES = [
    GRANT, OTHERS, GRANT + "\f" + OTHERS, GRANT + "\f" + GRANT, GRANT.replace("/{id}", "/{id}/../x"),
    "", "---\n", "a: &a [*a, *a]", "!!binary x: y", "? [a, b]\n: c", "kind: Quarantine", "%YAML 9.9\n--- |\n  x\n", "{" * 40, "- " * 40,
    '"\\u0000\\x07\u2028"', "a: 1\na: 2", "\ufeffkind: Grant\r\n",
]

CONFIGURATIONS = [
    'outbound: {listen: "unix:/run/a.sock", mode: "0660", uids: [0, 4294967295], services: []}\nidentity: x\npolicy: y',
    "inbound: []\nworkers: 257\nsizes: {maxHeadBytes: 1GiB}\ntimeouts: {idle: 0s, drain: 18446744073709551615d}",
    "admin: {listen: 0.0.0.0:15000}\naccessLog: ''", "[::1]:15006", "10.0.0.7:15006", "14d", "2026-11-01T00:00:00.5+14:00",
]

RESPONSES = [
    "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 404\r\nconnection: close\r\n\r\nrest",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nt: u\r\n\r\n",
    "HTTP/1.0 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "HTTP/1.1 200\xe9\r\n\r\n",
    "HTTP/1.1 200 OK\nA: b\n\n", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "HTTP/2 200\r\n\r\n", "HTTP/1.1 099 x\r\n\r\n",
]

# The first byte: 64 and above for chunks, 2 for a body without an end, 4 and above for a length.
BODIES = [
    (64, "5\r\nhello\r\n0;e\r\n\r\nGET"), (65, "1;a=\"b\"\r\na\r\n0\r\nA: b\r\nC: d\r\n\r\n"), (64, "ffffffffffffffff\r\na"), (64, "10000000000000000\r\n"),
    (64, "1\r\nab\r\n"), (64, "1\na\r\n"), (64, "0x1\r\na\r\n"), (64, "-1\r\n"), (64, "1 \r\na\r\n"), (64, "0\r\nA : b\r\n\r\n"), (64, "1\r\na\r\n" * 60),
    (64, "0" * 300), (8, "abcdef"), (2, "abc"), (0, "abc"), (32 << 1, "abc"), (65, "0\r\nContent-Length: 4\r\nTransfer-Encoding: x\r\n\r\n"),
]

if __name__ == "__main__":
    main()
