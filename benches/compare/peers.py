"""The pairs: how each proxy is configured and started, and nothing about how it is measured."""

import getpass
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pki
from machine import ENVOY, ROOT, WORK, Failure, Process, free_port, render

HERE = Path(__file__).resolve().parent
GRANTS = 100


class Pair:
    """An outbound and an inbound proxy between a caller and the app.

    `limit` is the caller's requests per second: low to see the limit work, high to measure.
    """

    def __init__(self, name, limit):
        self.name, self.limit = name, limit
        self.folder = WORK / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.outbound_port, self.inbound_port, self.app_port, self.impostor_port, self.closing_port = (free_port() for _ in range(5))
        self.outbound = self.inbound = None
        self.running = ExitStack()

    def __enter__(self):
        with self.running:
            self.start_authority()
            self.run("app", nginx(self.folder, self.template("nginx/app.conf", pki.STRANGER)), self.app_port)
            self.inbound = self.start("inbound", pki.ORDERS, self.inbound_port)
            self.outbound = self.start("outbound", pki.FRONTEND, self.outbound_port)
            self.running = self.running.pop_all()
        return self

    def __exit__(self, *_):
        self.running.close()

    def start_authority(self):
        self.authority = pki.Authority(self.folder / "pki")

    def start(self, side, spiffe_id, port):
        raise NotImplementedError

    def run(self, name, command, port, **env):
        return self.running.enter_context(Process(name, command, self.folder, port, **env))

    def template(self, path, spiffe_id, **more):
        """The file at `path`, filled in, in the pair's folder."""
        listen = self.inbound_port if "inbound" in path else self.outbound_port
        values = dict(LISTEN=listen, PEER=self.inbound_port, APP=self.app_port, IMPOSTOR=self.impostor_port, CLOSING=self.closing_port,
                      CERT=self.authority.certificate(spiffe_id), PEER_CERT=self.authority.certificate(pki.ORDERS), CA=self.authority.bundle, CALLER_ID=pki.FRONTEND,
                      PEER_ID=pki.ORDERS, CALLER_CN=pki.common_name(pki.FRONTEND),
                      PEER_CN=pki.common_name(pki.ORDERS), LIMIT=self.limit, USER=getpass.getuser())
        source = HERE / path
        return render(source, self.folder / source.name, **{**values, **more})


class HAProxy(Pair):
    alpn = "http/1.1"

    def start(self, side, spiffe_id, port):
        callers = self.folder / "callers.map"
        callers.write_text(f"{pki.encoded_alt_name(pki.FRONTEND)} {pki.FRONTEND}\n")
        config = self.template(f"haproxy/{side}.cfg", spiffe_id, ALPN=self.alpn, CALLERS=callers)
        return self.run(side, ["haproxy", "-db", "-f", config], port)


class HAProxyHttp2(HAProxy):
    alpn = "h2"


def nginx(folder, config):
    return ["nginx", "-p", folder, "-e", config.with_suffix(".err").name, "-c", config]


class Nginx(Pair):
    def start(self, side, spiffe_id, port):
        return self.run(side, nginx(self.folder, self.template(f"nginx/{side}.conf", spiffe_id)), port)


class Envoy(Pair):
    alpn, protocol = "http/1.1", "http_protocol_options"

    def start(self, side, spiffe_id, port):
        config = self.template(f"envoy/{side}.yaml", spiffe_id, ALPN=self.alpn, PROTOCOL=self.protocol)
        options = ["--concurrency", 1, "--disable-hot-restart", "--log-level", "warning"]
        return self.run(side, [ENVOY, "-c", config, *options], port)


class EnvoyHttp2(Envoy):
    alpn, protocol = "h2", "http2_protocol_options"


class Tipstaff(Pair):
    """Identities come from a CA started with the pair; the policy has 100 grants, each with a limit.

    Everything that depends on Tipstaff's command line and configuration format is in this class,
    in `TipstaffAuthority` and in tipstaff/.
    """

    binary = ROOT / "target" / "dist" / "tipstaff"

    def start_authority(self):
        self.ca_port = free_port()
        self.authority = TipstaffAuthority(self.binary, self.folder / "ca")
        serve = [self.binary, "ca", "serve", "--dir", self.authority.folder, "--listen", f"127.0.0.1:{self.ca_port}"]
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
        config = self.template(f"tipstaff/{side}.yaml", spiffe_id, CA_PORT=self.ca_port, TOKEN=token, ID=spiffe_id,
                               ENROLMENT_KEY=token.with_suffix(".key"), POLICY=self.policy, ADMIN=admin)
        process = self.run(side, [self.binary, "proxy", "--config", config], port)
        wait_until_ready(f"http://127.0.0.1:{admin}/ready", process)
        return process


class TipstaffAuthority:
    """Tipstaff's CA in a folder, with the face of `pki.Authority`."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.bundle = folder / "ca-bundle.pem"
        self.run("init", "--trust-domain", pki.TRUST_DOMAIN, "--insecure-plaintext-keys")

    def run(self, *arguments):
        """`tipstaff ca ARGUMENTS --dir FOLDER`: what it prints."""
        command = [self.binary, "ca", *arguments, "--dir", self.folder]
        done = subprocess.run(command, text=True, capture_output=True, check=False)
        if done.returncode != 0:
            raise Failure(f"{' '.join(map(str, command))}: {done.stderr}")
        return done.stdout

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


PAIRS = {
    "haproxy-h1": HAProxy,
    "haproxy-h2": HAProxyHttp2,
    "nginx-h1": Nginx,
    "envoy-h1": Envoy,
    "envoy-h2": EnvoyHttp2,
    "tipstaff": Tipstaff,
}
