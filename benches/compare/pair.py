"""An outbound and an inbound proxy between a caller and the app: what all pairs have in common."""

import getpass
import shutil
import urllib.request
from contextlib import ExitStack

import pki
from machine import HERE, WORK, Failure, Process, free_port, render

BODIES = {"16k": 16 << 10, "1m": 1 << 20}


class Pair:
    """Started by `with`; everything of it is in its folder.

    `limit` is the caller's requests per second, or connections where nobody looks into them: low to see the limit work,
    high to measure.
    """

    is_opaque = False  # Whether it carries opaque TCP.

    def __init__(self, name, limit):
        self.name, self.limit = name, limit
        self.folder = WORK / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        (self.outbound_port, self.inbound_port, self.app_port, self.impostor_port, self.closing_port,
         self.to_impostor_port) = (free_port() for _ in range(6))
        self.outbound = self.inbound = None
        self.running = ExitStack()

    def __enter__(self):
        with self.running:
            self.start_authority()
            for size in BODIES.values():
                (self.folder / str(size)).write_bytes(b"x" * size)
            self.run("app", nginx(self.folder, self.template("nginx/app.conf", pki.STRANGER)), self.app_port)
            self.start_sides()
            self.running = self.running.pop_all()
        return self

    def __exit__(self, *_):
        self.running.close()

    def start_authority(self):
        self.authority = pki.Authority(self.folder / "pki")

    def start_sides(self):
        self.inbound = self.start("inbound", pki.ORDERS, self.inbound_port)
        self.outbound = self.start("outbound", pki.FRONTEND, self.outbound_port)

    def start(self, side, spiffe_id, port):
        raise NotImplementedError

    def access_log(self, _side):
        """The file of the access log, if there is one."""
        return None

    def run(self, name, command, port):
        return self.running.enter_context(Process(name, command, self.folder, port))

    def template(self, path, spiffe_id, **more):
        """The file at `path`, filled in, in the pair's folder."""
        listen = self.inbound_port if "inbound" in path else self.outbound_port
        values = dict(LISTEN=listen, PEER=self.inbound_port, APP=self.app_port, IMPOSTOR=self.impostor_port,
                      CLOSING=self.closing_port, TO_IMPOSTOR=self.to_impostor_port, CERT=self.authority.certificate(spiffe_id),
                      PEER_CERT=self.authority.certificate(pki.ORDERS), CA=self.authority.bundle,
                      CALLER_ID=pki.FRONTEND, PEER_ID=pki.ORDERS, CALLER_CN=pki.common_name(pki.FRONTEND),
                      PEER_CN=pki.common_name(pki.ORDERS), LIMIT=self.limit, USER=getpass.getuser(), FOLDER=self.folder)
        source = HERE / path
        return render(source, self.folder / source.name, **{**values, **more})

    def measured(self, work):
        """Runs `work`, which gives a sample with a count of `requests`; adds CPU per request and peak memory of both sides."""
        sides = {"out": self.outbound, "in": self.inbound}
        before = {side: process.usage() for side, process in sides.items()}
        for process in sides.values():
            process.forget_peak()
        sample = work()
        if sample["requests"] == 0:
            raise Failure(f"{self.name}: not one request was answered")
        for side, process in sides.items():
            after = process.usage()
            sample[f"{side}_us"] = (after.cpu_us - before[side].cpu_us) / sample["requests"]
            sample[f"peak_{side}"] = after.peak
        return {**sample, "sum_us": sample["out_us"] + sample["in_us"]}

    def served(self):
        """How many requests the servers around the pair have answered so far, this one among them."""
        return self.counters()[2]

    def accepted(self):
        """How many connections they have accepted."""
        return self.counters()[0]

    def counters(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.app_port}/status", timeout=10) as answer:
            return [int(count) for count in answer.read().split(b"requests")[1].split()[:3]]


def nginx(folder, config):
    return ["nginx", "-p", folder, "-e", config.with_suffix(".err").name, "-c", config]


class Direct(Pair):
    """No proxy at all: what the client and the app take by themselves."""

    def start_sides(self):
        self.outbound_port = self.app_port

    def measured(self, work):
        return work()
