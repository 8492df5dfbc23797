"""Certificates as a SPIFFE CA would issue them: ECDSA P-256, one URI name, both extended key usages.

The common name is the ID without its scheme (nginx reads a colon as the start of a port), for the peers
that cannot see URI names.
"""

import subprocess

TRUST_DOMAIN = "bench.test"
FRONTEND = f"spiffe://{TRUST_DOMAIN}/ns/shop/sa/frontend"
ORDERS = f"spiffe://{TRUST_DOMAIN}/ns/shop/sa/orders"
STRANGER = f"spiffe://{TRUST_DOMAIN}/ns/shop/sa/stranger"

EXTENSIONS = """basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = URI:{id}
"""


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def new_key(path):
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)


def common_name(spiffe_id):
    return spiffe_id.removeprefix("spiffe://")


class Authority:
    """A CA in a folder; `certificate` gives PEM files of chain and key for one ID."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.bundle = folder, folder / "ca.pem"
        new_key(folder / "ca.key")
        openssl("req", "-x509", "-new", "-key", folder / "ca.key", "-days", 30, "-subj", "/CN=comparison CA",
                "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-out", self.bundle)

    def certificate(self, spiffe_id):
        name = self.folder / spiffe_id.rpartition("/")[2]
        key, request, extensions, leaf, pem = (name.with_suffix(end) for end in (".key", ".csr", ".ext", ".crt", ".pem"))
        if pem.exists():
            return pem
        new_key(key)
        extensions.write_text(EXTENSIONS.format(id=spiffe_id))
        subject = "/CN=" + common_name(spiffe_id).replace("/", "\\/")
        openssl("req", "-new", "-key", key, "-subj", subject, "-out", request)
        openssl("x509", "-req", "-in", request, "-CA", self.bundle, "-CAkey", self.folder / "ca.key", "-days", 30,
                "-extfile", extensions, "-out", leaf)
        pem.write_text(leaf.read_text() + key.read_text())
        return pem


def encoded_alt_name(spiffe_id):
    """The DER of a subjectAltName extension with this URI alone, in upper-case hex."""
    uri = spiffe_id.encode()
    name = bytes([0x86, len(uri)]) + uri
    names = bytes([0x30, len(name)]) + name
    value = bytes([0x06, 3, 0x55, 0x1D, 0x11, 0x04, len(names)]) + names
    if len(names) > 127:
        raise ValueError("short form lengths only")
    return value.hex().upper()
