"""What is measured: each mode turns a running pair into a sample, a dict of figures in the units of its columns."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import checks
import tls
from load import steady, wrk
from machine import Failure
from pair import BODIES
from peers import DIRECT, PAIRS, new_pair

HIGH_LIMIT = 500_000
KIB, MIB = 1024, 1024 * 1024
OPAQUE = [name for name in PAIRS if name.endswith("-tcp")]
OF_REQUESTS = [name for name in PAIRS if name not in OPAQUE]
WITHOUT_LOG = [name for name in OF_REQUESTS if not name.endswith("-log")]
# For what needs connections that end after one answer; between their sides these speak HTTP/1.1, or can.
WITH_HTTP1 = [name for name in WITHOUT_LOG if not name.endswith("-h2")]


@dataclass(frozen=True)
class Mode:
    name: str
    help: str
    sample: Callable
    columns: dict  # Figure -> its title in the table.
    costs: tuple  # The figures, lower is better, that Tipstaff is judged by.
    peers: tuple = ("haproxy", "envoy")  # The families of pairs that the table sets every cost against.
    pairs: tuple = tuple(WITHOUT_LOG)
    connections: int = 64
    rounds: int = 3
    subject: str = "tipstaff"  # The pair that is judged.
    # Costs of one round are divided by each other: the machine drifts. Latency is too rare an event for that, and
    # is judged by its medians.
    ratio_within_round: bool = True


def load(pair, options):
    """As fast as the pair goes."""
    return with_units(steady(pair, options.connections, options.seconds))


def paced(pair, options):
    """At a rate far below saturation; `add_latency` takes away what client and app take by themselves."""
    pace = options.connections * 1000 / options.rate
    wrk(pair, options.connections, 2, PACE_MS=pace)  # Makes the connections that such a load keeps in use.
    sample = pair.measured(lambda: wrk(pair, options.connections, options.seconds, PACE_MS=pace))
    return {"cpu": 0, **with_units(sample)}


def add_latency(samples):
    """`p50` and `p99` become what the pair adds to the direct way in the same round; the whole stays beside them."""
    for mine in samples.values():
        for one, direct in zip(mine, samples[DIRECT]):
            for figure in ("p50", "p99"):
                whole = one.setdefault(f"whole-{figure}", one[figure])
                one[figure] = whole - direct.get(f"whole-{figure}", direct[figure])


def handshake(pair, options):
    """A full mTLS handshake per request, first made by the outbound side and then taken by the inbound side.

    Made: requests for a server that ends each connection after one answer. Taken: clients that do so.
    """
    checks.check_full_handshakes(pair)
    before = pair.accepted(), pair.served()
    made = steady(pair, options.connections, options.seconds, host="closing")
    connections, requests = (now - then for now, then in zip((pair.accepted(), pair.served()), before))
    # Those under way at the end, and our own questions.
    if abs(connections - requests) > 2 * options.connections:
        raise Failure(f"{pair.name}: {requests} requests over {connections} connections: not one connection each")
    taken = pair.measured(lambda: tls.new_connections(pair, options.seconds))
    return {"out": made["out_us"], "in": taken["in_us"], "cpu": made["out_us"] + taken["in_us"],
            "rate": taken["requests"] / options.seconds, "p50": taken["p50_us"] / 1000, "p99": taken["p99_us"] / 1000,
            "peak": max(made["peak_out"], taken["peak_in"]) / MIB}


def bodies(pair, options):
    """Both sizes in both directions. A request with 1 MiB costs one MiB, so that all four are per request."""
    sample = {}
    for name, size in BODIES.items():
        down, up = both_ways(pair, options, size)
        sample.update({f"{name}-down": down["sum_us"], f"{name}-up": up["sum_us"]})
    return sample


def tcp(pair, options):
    """One MiB in either direction at a time, over connections that the two sides do not look into."""
    down, up = both_ways(pair, options, MIB)
    return {"down": down["sum_us"], "up": up["sum_us"],
            **{f"{way}-{side}": sample[f"{side}_us"] for way, sample in [("down", down), ("up", up)] for side in ("out", "in")},
            "peak": max(down["peak_out"], down["peak_in"], up["peak_out"], up["peak_in"]) / MIB}


def both_ways(pair, options, size):
    """The samples of downloads and of uploads of `size` bytes."""
    down = steady(pair, options.connections, options.seconds, path=f"/api/v1/orders/{size}")
    if down["bytes_each"] < size:
        raise Failure(f"{pair.name}: downloads of {size} bytes came to {down['bytes_each']} bytes each")
    # The app passes an upload on to itself once it has all of it.
    up = steady(pair, options.connections, options.seconds, answers=2, path=checks.UPLOAD, UPLOAD_BYTES=size)
    return down, up


def memory(pair, options):
    """Resident memory of a side: at rest, with idle mTLS connections, and busy; each in processes that did nothing before."""
    count = options.connections
    with new_pair(pair.name, HIGH_LIMIT, f"{pair.name}-idle") as idle, ExitStack() as connections:
        sample = {"idle": max(side.usage().rss for side in (idle.outbound, idle.inbound)) / MIB}
        for figure, protocol in [("each-h1", tls.HTTP1), ("each-h2", tls.HTTP2)]:
            each = tls.idle_each(idle, count, protocol, connections)
            sample[figure] = each and each / KIB
    with new_pair(pair.name, HIGH_LIMIT, f"{pair.name}-busy") as busy, ExitStack() as connections:
        load = steady(busy, count, options.seconds)
        taken = tls.busy(busy, count, 5, connections)
        sample.update({"busy-out": load["peak_out"] / MIB, "busy-in": max(load["peak_in"], taken) / MIB})
    return {**sample, "busy": max(sample["busy-out"], sample["busy-in"])}


def with_units(sample):
    units = {"rate": sample["requests"] / sample["seconds"], "p50": sample["p50_us"] / 1000, "p99": sample["p99_us"] / 1000}
    if "sum_us" in sample:
        units.update({"out": sample["out_us"], "in": sample["in_us"], "cpu": sample["sum_us"],
                      "peak-out": sample["peak_out"] / MIB, "peak-in": sample["peak_in"] / MIB})
    return units


SIDES = {"out": "us out", "in": "us in", "cpu": "us sum"}
CLIENT = {"rate": "req/s", "p50": "p50 ms", "p99": "p99 ms"}

MODES = {mode.name: mode for mode in [
    Mode("load", "a closed loop, as fast as the pair goes", load,
         {**SIDES, **CLIENT, "peak-out": "peak MiB out", "peak-in": "in"}, ("cpu",),
         peers=("haproxy-h1", "haproxy-h2", "envoy"), pairs=tuple(OF_REQUESTS)),
    Mode("handshake", "a new connection and a full mTLS handshake per request", handshake,
         {**SIDES, **CLIENT, "peak": "peak MiB"}, ("cpu",), pairs=tuple(WITH_HTTP1)),
    Mode("paced", "latency added at --rate", paced,
         {"p50": "p50 added ms", "p99": "p99 added ms", "whole-p50": "p50 ms", "whole-p99": "p99 ms", "rate": "req/s",
          "cpu": "us sum"}, ("p50", "p99"), peers=("haproxy", "nginx"), pairs=(DIRECT, *WITHOUT_LOG), rounds=5,
         ratio_within_round=False),
    Mode("bodies", "bodies of 16 KiB and 1 MiB, downloads and uploads", bodies,
         {f"{name}-{way}": f"us {name} {way}" for name in BODIES for way in ("down", "up")},
         tuple(f"{name}-{way}" for name in BODIES for way in ("down", "up")), peers=("haproxy",), connections=16),
    Mode("tcp", "opaque TCP, a MiB down and up", tcp,
         {"down": "us per MiB down", "down-out": "out", "down-in": "in", "up": "us per MiB up", "up-out": "out", "up-in": "in",
          "peak": "peak MiB"}, ("down", "up"), peers=("haproxy",), pairs=tuple(OPAQUE), connections=16, subject="tipstaff-tcp"),
    Mode("memory", "resident memory: at rest, per idle mTLS connection, busy", memory,
         {"idle": "idle MiB", "each-h1": "KiB per idle HTTP/1.1", "each-h2": "KiB per idle HTTP/2",
          "busy-out": "busy MiB out", "busy-in": "in"}, ("idle", "each-h1", "each-h2", "busy"), peers=(), connections=1000),
]}
