"""The pairs by name: how each peer is configured and started, and nothing about how it is measured."""

import pki
from machine import ENVOY
from pair import Direct, Pair, nginx
from tipstaff import Tipstaff, TipstaffTcp, TipstaffWithLog


class HAProxy(Pair):
    alpn, templates = "http/1.1", "haproxy"

    def start(self, side, spiffe_id, port):
        callers = self.folder / "callers.map"
        callers.write_text(f"{pki.encoded_alt_name(pki.FRONTEND)} {pki.FRONTEND}\n")
        config = self.template(f"{self.templates}/{side}.cfg", spiffe_id, ALPN=self.alpn, CALLERS=callers)
        return self.run(side, ["haproxy", "-db", "-f", config], port)


class HAProxyHttp2(HAProxy):
    alpn = "h2"


class HAProxyTcp(HAProxy):
    templates, is_opaque = "haproxy/tcp", True


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


PAIRS = {
    "haproxy-h1": HAProxy,
    "haproxy-h2": HAProxyHttp2,
    "nginx-h1": Nginx,
    "envoy-h1": Envoy,
    "envoy-h2": EnvoyHttp2,
    "tipstaff": Tipstaff,
    "tipstaff-log": TipstaffWithLog,
    "haproxy-tcp": HAProxyTcp,
    "tipstaff-tcp": TipstaffTcp,
}
DIRECT = "direct"


def new_pair(name, limit, folder=None):
    """The pair of that name, not yet started; `folder` if it is to stand beside another of that name."""
    return {**PAIRS, DIRECT: Direct}[name](folder or name, limit)
