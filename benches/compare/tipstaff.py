"""Tipstaff as one of the pairs: all that depends on its command line and configuration format is here and in tipstaff/."""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request

import pki
from machine import HERE, ROOT, Failure, free_port, render
from pair import Pair

GRANTS = 100


class Tipstaff(Pair):
    """Identities come from a CA started with the pair; the policy has 100 grants, each with a limit."""

    binary = ROOT / "target" / "dist" / "tipstaff"
    templates = "tipstaff"
    ca_host = "127.0.0.1"
    serve_options = ()

    def start_authority(self):
        self.ca_port = free_port()
        self.authority = Authority(self.binary, self.folder / "ca")
        serve = [self.binary, "ca", "serve", "--dir", self.authority.folder, "--listen", f"{self.ca_host}:{self.ca_port}", *self.serve_options]
        self.run("ca", serve, self.ca_port)
        self.policy = self.folder / "policy"
        self.policy.mkdir()
        for name in ["orders", *(f"resource-{n}" for n in range(1, GRANTS))]:
            grant = self.policy / f"{name}.yaml"
            render(HERE / "tipstaff" / "grant.yaml", grant, NAME=name, LIMIT=self.limit,
                   CALLER_ID=pki.FRONTEND, CALLEE_ID=pki.ORDERS)

    def start(self, side, spiffe_id, port):
        token, admin = self.folder / f"{side}.token", free_port()
        token.write_text(self.authority.run("token", "create", "--id", spiffe_id))
        token.chmod(0o600)
        config = self.template(f"{self.templates}/{side}.yaml", spiffe_id, CA_PORT=self.ca_port, TOKEN=token, ID=spiffe_id,
                               ENROLMENT_KEY=token.with_suffix(".key"), POLICY=self.policy, ADMIN=admin,
                               ACCESS_LOG=self.access_log(side) or "off")
        process = self.run(side, [self.binary, "proxy", "--config", config], port)
        wait_until_ready(f"http://127.0.0.1:{admin}/ready", process)
        return process


class TipstaffWithLog(Tipstaff):
    """The same, and both sides write one line of JSON per request to a file."""

    def access_log(self, side):
        return self.folder / f"{side}.access.log"

    def measured(self, work):
        """As of every pair, and a line lost is a failure: a log that drops lines is not the log that is compared."""
        logs = [self.access_log(side) for side in ("outbound", "inbound")]
        for log in logs:
            os.truncate(log, 0)  # It is opened for appending; earlier rounds would fill the disk.
        sample = super().measured(work)
        time.sleep(0.5)  # Lines wait up to 200 ms.
        for log in logs:
            with log.open("rb") as lines:
                written = sum(chunk.count(b"\n") for chunk in iter(lambda: lines.read(1 << 20), b""))
            if written < sample["requests"]:
                raise Failure(f"{self.name}: {log.name} has {written} lines for {sample['requests']} requests")
        return sample


class TipstaffTcp(Tipstaff):
    """Opaque TCP. The 100 grants stay; one more lets the caller connect."""

    templates, is_opaque = "tipstaff/tcp", True

    def start_authority(self):
        super().start_authority()
        render(HERE / "tipstaff" / "tcp" / "grant.yaml", self.policy / "tcp.yaml", LIMIT=self.limit,
               CALLER_ID=pki.FRONTEND, CALLEE_ID=pki.ORDERS)


class Authority:
    """Tipstaff's CA in a folder, with the face of `pki.Authority`."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.bundle = folder / "ca-bundle.pem"
        self.run("init", "--trust-domain", pki.TRUST_DOMAIN, "--insecure-plaintext-keys")

    def run(self, *arguments):
        """`tipstaff ca ARGUMENTS --dir FOLDER`: what it prints."""
        done = self.attempt(*arguments)
        if done.returncode != 0:
            raise Failure(f"{' '.join(map(str, done.args))}: {done.stderr}")
        return done.stdout

    def attempt(self, *arguments):
        """The same, which may fail."""
        command = [self.binary, "ca", *arguments, "--dir", self.folder]
        return subprocess.run(command, text=True, capture_output=True, check=False)

    def certificate(self, spiffe_id):
        name = self.folder.with_name(spiffe_id.rpartition("/")[2])
        key, request, pem = (name.with_suffix(end) for end in (".key", ".csr", ".pem"))
        if not pem.exists():
            pki.new_key(key)
            pki.openssl("req", "-new", "-key", key, "-subj", "/CN=comparison", "-out", request)
            pem.write_text(self.run("issue", "--id", spiffe_id, "--csr", request) + key.read_text())
        return pem


def wait_until_ready(url, process, seconds=20):
    answer = "no answer"
    for _ in range(seconds * 20):
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except urllib.error.HTTPError as refused:
            answer = refused.read().decode(errors="replace")
        except OSError:
            pass
        time.sleep(0.05)
    raise Failure(f"{process.name} is not ready: {json.dumps(answer)}\n{process.log.read_text()[-2000:]}")
