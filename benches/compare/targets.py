"""What Tipstaff may cost: bounds given on the command line, and the table of targets that `--all` goes through."""

import argparse
import json
from dataclasses import dataclass

from machine import WORK, Failure
from rounds import family_of, number
from table import print_table

SUBJECT = "tipstaff"


@dataclass(frozen=True)
class Bound:
    """An upper bound of a figure of Tipstaff's: a ratio to a peer's, or without a peer a number in the figure's unit."""

    figure: str
    limit: float
    peer: str | None = None
    subject: str = SUBJECT

    def measured(self, result):
        """What stands against `limit`. What was not measured is a failure, never a pass."""
        if self.subject not in result.samples:
            raise Failure(f"{self}: {self.subject} was not measured")
        if self.peer is None:
            value = result.median(self.subject, self.figure)
            if value is None:
                raise Failure(f"{self}: there is no such figure")
            return value
        reference = result.cheapest(self.peer, self.figure)
        if reference is None:
            raise Failure(f"{self}: no {self.peer} was measured")
        if result.median(reference, self.figure) <= 0:
            raise Failure(f"{self}: {reference} is lost in the noise; use a quiet machine, or longer rounds")
        return result.ratios(self.subject, reference, self.figure)[0]

    def beside(self, result):
        """The same against the other variants of the peer, which no limit was set for."""
        used = self.peer and result.cheapest(self.peer, self.figure)
        others = [name for name in result.samples if used and name != used and family_of(name) == family_of(used)]
        return {name: result.ratios(self.subject, name, self.figure)[0] for name in others}

    def __str__(self):
        return f"{self.figure} <= {self.limit:g}" + (f" x {self.peer}" if self.peer else "")


def bounds(text, mode):
    """`[FIGURE:]PEER=RATIO` or `FIGURE=NUMBER`; without a figure, all costs of the mode."""
    name, _, limit = text.partition("=")
    try:
        limit = float(limit)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected [FIGURE:]PEER=RATIO or FIGURE=NUMBER") from None
    if name in mode.columns or name in mode.costs:
        return [Bound(name, limit, subject=mode.subject)]
    figure, _, peer = name.rpartition(":")
    if figure and figure not in mode.columns:
        raise argparse.ArgumentTypeError(f"{text}: mode {mode.name} has no figure {figure}; it has {', '.join(mode.columns)}")
    return [Bound(one, limit, peer, mode.subject) for one in ([figure] if figure else mode.costs)]


@dataclass(frozen=True)
class Target:
    what: str
    mode: str
    connections: int
    bound: Bound


# CPU per request is held against HAProxy as it comes, with HTTP/1.1 between its sides; where no variant is named, the
# cheapest counts.
TARGETS = [
    Target("pair CPU per request, 64 clients", "load", 64, Bound("cpu", 0.50, "haproxy-h1")),
    Target("pair CPU per request, 64 clients", "load", 64, Bound("cpu", 0.18, "envoy")),
    Target("the same with the access log, to HAProxy without", "load", 64, Bound("cpu", 0.65, "haproxy-h1", "tipstaff-log")),
    Target("pair CPU per request, 1000 clients", "load", 1000, Bound("cpu", 0.50, "haproxy-h1")),
    Target("new connection and full handshake per request", "handshake", 64, Bound("cpu", 0.65, "envoy")),
    Target("new connection and full handshake per request", "handshake", 64, Bound("cpu", 0.40, "haproxy-h1")),
    Target("added p50 at 2000 requests/s", "paced", 64, Bound("p50", 1.0, "haproxy")),
    Target("added p50 at 2000 requests/s", "paced", 64, Bound("p50", 1.0, "nginx")),
    Target("added p99 at 2000 requests/s", "paced", 64, Bound("p99", 1.0, "haproxy")),
    Target("added p99 at 2000 requests/s", "paced", 64, Bound("p99", 1.0, "nginx")),
    Target("16 KiB downloads, CPU per request", "bodies", 16, Bound("16k-down", 0.7, "haproxy")),
    Target("16 KiB uploads, CPU per request", "bodies", 16, Bound("16k-up", 0.7, "haproxy")),
    Target("1 MiB downloads, CPU per MiB", "bodies", 16, Bound("1m-down", 0.7, "haproxy")),
    Target("1 MiB uploads, CPU per MiB", "bodies", 16, Bound("1m-up", 0.7, "haproxy")),
    Target("opaque TCP, downloads, CPU per MiB", "tcp", 16, Bound("down", 1.0, "haproxy", "tipstaff-tcp")),
    Target("opaque TCP, uploads, CPU per MiB", "tcp", 16, Bound("up", 1.0, "haproxy", "tipstaff-tcp")),
    Target("resident memory of a side at rest, MiB", "memory", 1000, Bound("idle", 10)),
    Target("memory per idle mTLS connection, HTTP/1.1, KiB", "memory", 1000, Bound("each-h1", 24)),
    Target("memory per idle mTLS connection, HTTP/2, KiB", "memory", 1000, Bound("each-h2", 24)),
    Target("resident memory of a side, 1000 busy connections, MiB", "memory", 1000, Bound("busy", 50)),
]


def summarise(results):
    """Prints and writes each target with what was measured, and answers those that do not hold.

    `results` has for each (mode, connections) its result, or the failure that kept it from having one.
    """
    rows = []
    for target in TARGETS:
        result = results[target.mode, target.connections]
        row = {"what": target.what, "target": str(target.bound), "measured": None, "beside": {}, "verdict": "missed",
               "command": f"benches/compare/run --mode {target.mode} --connections {target.connections}"}
        try:
            if isinstance(result, Failure):
                raise result
            row.update(measured=target.bound.measured(result), beside=target.bound.beside(result))
            if row["measured"] <= target.bound.limit:
                row["verdict"] = "holds"
        except Failure as failure:
            row.update(verdict="not measured", failure=str(failure).strip())
        rows.append(row)
    (WORK / "summary.json").write_text(json.dumps(rows, indent=1) + "\n")
    print_table(["what", "target", "measured", "verdict", "beside", "command"],
                [[row["what"], row["target"], number(row["measured"]), row["verdict"],
                  ", ".join(f"{number(ratio)} x {peer}" for peer, ratio in row["beside"].items()), row["command"]] for row in rows])
    return [row for row in rows if row["verdict"] != "holds"]
