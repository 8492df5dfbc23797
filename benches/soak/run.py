#!/usr/bin/env python3
"""A pair of sidecars under mixed load: HTTP/1.1 and HTTP/2 at a fixed rate, WebSockets that stay open, 200 new connections a
second, certificates of two minutes, a new policy every minute. Writes target/soak/report.md with plots and the samples.

Exit 1 if a request or a WebSocket failed, a policy was not taken, or a log has a panic; how memory, open files and latency rose
is printed (R35).
"""

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "compare"))

import machine
import pki
from load import wrk
from machine import Failure, free_port
from pair import WORK
from tipstaff import Tipstaff

RATE, HTTP1_SHARE = 2000, 0.5
CONNECTIONS, CHURN, WEBSOCKETS = 64, 200, 50
SAMPLE_S, SEGMENT_S, POLICY_S = 5, 20, 60
TOKEN = "soak"


class Soaked(Tipstaff):
    """Certificates of two minutes, an app that also switches protocols, and a policy that is written anew."""

    def start_authority(self):
        super().start_authority()
        (self.policy / "profile.yaml").write_text(
            "apiVersion: tipstaff.dev/v1alpha1\nkind: HttpProfile\nmetadata: {name: soak, namespace: shop}\n"
            f"spec: {{to: [{pki.ORDERS}], upgrade: [{TOKEN}]}}\n")
        self.echo_port, self.admin = free_port(), {}
        threading.Thread(target=asyncio.run, args=(echo(self.echo_port),), daemon=True).start()

    def template(self, path, spiffe_id, **more):
        if "ADMIN" in more:
            self.admin["inbound" if "inbound" in path else "outbound"] = more["ADMIN"]
        rendered = super().template(path, spiffe_id, **more)
        text = rendered.read_text()
        text = text.replace("identity:\n", "identity:\n  ttl: 2m\n", 1)
        text = text.replace("location = /status", f"location = /api/v1/orders/echo {{ proxy_http_version 1.1; proxy_read_timeout 1h; "
                            f"proxy_set_header Connection upgrade; proxy_set_header Upgrade {TOKEN}; "
                            f"proxy_pass http://127.0.0.1:{self.echo_port}; }}\n        location = /status")
        rendered.write_text(text)
        return rendered

    def new_policy(self, turn):
        grant = self.policy / "orders.yaml"
        text = re.sub(r"\n# turn .*", "", grant.read_text())
        grant.write_text(f"{text.rstrip()}\n# turn {turn}\n")

    def metric(self, side, name):
        """The sum of a metric's series."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin[side]}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[ {{]", line))


async def echo(port):
    """What is behind the app: switches protocols and sends back what it hears."""
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {TOKEN}\r\n\r\n".encode())
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()
    await (await asyncio.start_server(serve, "127.0.0.1", port)).serve_forever()


class Clients:
    """WebSockets and short connections, in a loop of their own thread; what fails is kept."""

    def __init__(self, pair, deadline):
        self.pair, self.deadline, self.failures, self.echoes, self.short = pair, deadline, [], 0, 0
        self.thread = threading.Thread(target=asyncio.run, args=(self.run(),))
        self.thread.start()

    async def run(self):
        await asyncio.gather(self.churn(), *(self.websocket(n) for n in range(WEBSOCKETS)))

    async def websocket(self, number):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.pair.outbound_port)
            writer.write(f"GET /api/v1/orders/echo HTTP/1.1\r\nHost: orders\r\nConnection: upgrade\r\nUpgrade: {TOKEN}\r\n\r\n".encode())
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            if not head.startswith(b"HTTP/1.1 101 "):
                raise Failure(f"no upgrade: {head[:80]}")
            while time.monotonic() < self.deadline:
                word = f"{number:08}".encode()
                writer.write(word)
                if await asyncio.wait_for(reader.readexactly(8), 10) != word:
                    raise Failure("another echo")
                self.echoes += 1
                await asyncio.sleep(1)
            writer.close()
        except (OSError, EOFError, TimeoutError, Failure) as failure:
            self.failures.append(f"WebSocket {number} after {self.echoes} echoes of all: {failure!r}")

    async def churn(self):
        while time.monotonic() < self.deadline:
            turn = asyncio.sleep(1 / 20)
            await asyncio.gather(turn, *(self.request() for _ in range(CHURN // 20)))

    async def request(self):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.pair.outbound_port)
            writer.write(b"GET /api/v1/orders/42 HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(), 10)
            writer.close()
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise Failure(f"{answer[:80]}")
            self.short += 1
        except (OSError, TimeoutError, Failure) as failure:
            self.failures.append(f"short connection {self.short}: {failure!r}")


def http1(pair, deadline, latencies, failures):
    pace = CONNECTIONS * 1000 / (RATE * HTTP1_SHARE)
    while (left := deadline - time.monotonic()) > 1:
        try:
            sample = wrk(pair, CONNECTIONS, int(min(left, SEGMENT_S)), PACE_MS=pace)
        except Failure as failure:
            failures.append(f"HTTP/1.1: {failure}")
        else:
            latencies.append((time.monotonic(), sample["p50_us"] / 1000, sample["p99_us"] / 1000, sample["requests"]))


def http2(pair, deadline, counts, failures):
    while (left := deadline - time.monotonic()) > 1:
        clients, seconds = 10, int(min(left, SEGMENT_S))
        done = subprocess.run(
            ["h2load", f"--clients={clients}", f"--duration={seconds}", f"--rps={RATE * (1 - HTTP1_SHARE) / clients}", "--max-concurrent-streams=10",
             "--header=:authority: orders", f"http://127.0.0.1:{pair.outbound_port}/api/v1/orders/42"],
            text=True, capture_output=True, check=False)
        found = re.search(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed", done.stdout)
        if not found or found[4] != "0" or found[2] != found[3]:
            failures.append(f"HTTP/2: {found[0] if found else done.stdout + done.stderr}")
        else:
            counts.append(int(found[3]))


def descriptors(process):
    return sum(len(list((base / "fd").iterdir())) for base in process.family())


def plot(path, title, unit, series):
    """Lines over minutes, as SVG."""
    colours, width, height = ("#0b6", "#06b", "#b60"), 720, 220
    most_x = max(x for points in series.values() for x, _ in points) or 1
    most_y = 1.1 * max(y for points in series.values() for _, y in points) or 1
    place = lambda x, y: f"{50 + x / most_x * (width - 70):.1f},{height - 30 - y / most_y * (height - 60):.1f}"
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
             f'<text x="50" y="18">{title} ({unit}; at most {most_y / 1.1:.1f}), over {most_x:.1f} min</text>',
             f'<path d="M{place(0, most_y)} L{place(0, 0)} L{place(most_x, 0)}" stroke="#888" fill="none"/>']
    for number, (name, points) in enumerate(series.items()):
        colour = colours[number % len(colours)]
        line = " ".join(place(x, y) for x, y in points)
        parts.append(f'<polyline points="{line}" stroke="{colour}" fill="none"/><text x="{60 + 110 * number}" y="{height - 8}" fill="{colour}">{name}</text>')
    path.write_text("\n".join(parts) + "\n</svg>\n")


def slope_per_hour(points):
    """Least squares over the second half, as a share of its mean: the first half is what fills pools and caches."""
    late = points[len(points) // 2:]
    times, values = [x for x, _ in late], [y for _, y in late]
    return statistics.linear_regression(times, values).slope * 60 / statistics.mean(values) if len(late) > 2 else 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("minutes", type=float)
    parser.add_argument("--tipstaff", type=Path, default=Tipstaff.binary, metavar="BINARY", help="default: %(default)s")
    options = parser.parse_args()
    Soaked.binary = options.tipstaff.resolve()
    machine.install_missing({"nginx": "nginx", "wrk": "wrk", "openssl": "openssl", "h2load": "nghttp2-client"},
                            with_envoy=False)
    out = WORK.parent / "soak"
    out.mkdir(parents=True, exist_ok=True)
    with Soaked("soak", 500_000) as pair:
        run(pair, options.minutes, out)


def run(pair, minutes, out):
    start = time.monotonic()
    deadline = start + minutes * 60
    failures, latencies, counts, samples = [], [], [], []
    clients = Clients(pair, deadline)
    loads = [threading.Thread(target=http1, args=(pair, deadline, latencies, failures)),
             threading.Thread(target=http2, args=(pair, deadline, counts, failures))]
    for load in loads:
        load.start()
    turn = 0
    while time.monotonic() < deadline:
        time.sleep(min(SAMPLE_S, max(0.1, deadline - time.monotonic())))
        now = (time.monotonic() - start) / 60
        samples.append({"minute": now, **{f"{what}-{name}": of(side) for name, side in (("out", pair.outbound), ("in", pair.inbound))
                                          for what, of in (("rss", lambda side: side.usage().rss / 2**20), ("fds", descriptors))}})
        if now * 60 >= (turn + 1) * POLICY_S:
            turn += 1
            pair.new_policy(turn)
    for load in loads:
        load.join()
    clients.thread.join()
    failures += clients.failures
    facts = {
        "minutes": minutes,
        "HTTP/1.1 requests": sum(each[3] for each in latencies),
        "HTTP/2 requests": sum(counts),
        "short connections": clients.short,
        "WebSocket echoes": clients.echoes,
        "policies taken (in, out)": [pair.metric(side, "tipstaff_reloads_total") for side in ("inbound", "outbound")],
        "policies written": turn,
        "certificates (in, out)": [pair.metric(side, "tipstaff_identity_changes_total") for side in ("inbound", "outbound")],
        "failures": len(failures),
    }
    report(pair, out, start, facts, failures, latencies, samples)


def report(pair, out, start, facts, failures, latencies, samples):
    series = {what: {side: [(sample["minute"], sample[f"{what}-{side}"]) for sample in samples] for side in ("out", "in")} for what in ("rss", "fds")}
    p99 = [((at - start) / 60, value) for at, _, value, _ in latencies]
    p50 = [((at - start) / 60, value) for at, value, _, _ in latencies]
    plot(out / "rss.svg", "resident memory", "MiB", series["rss"])
    plot(out / "fds.svg", "open files", "count", series["fds"])
    plot(out / "p99.svg", "latency of HTTP/1.1 requests", "ms", {"p50": p50, "p99": p99})
    third = max(1, len(p99) // 3)
    early, late = (statistics.median(value for _, value in part) for part in (p99[:third], p99[-third:]))
    facts.update({
        "RSS slope per hour, second half (out, in)": [f"{slope_per_hour(series['rss'][side]):+.1%}" for side in ("out", "in")],
        "RSS at the end, MiB (out, in)": [round(series["rss"][side][-1][1], 1) for side in ("out", "in")],
        "open files, first and last (out, in)": [[series["fds"][side][0][1], series["fds"][side][-1][1]] for side in ("out", "in")],
        "p99 ms, first and last third": [round(early, 2), round(late, 2)],
    })
    panics = [process.name for process in (pair.outbound, pair.inbound) if "panicked" in process.log.read_text(errors="replace")]
    facts["panics"] = panics
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    text = "# Soak\n\n" + "\n".join(lines) + "\n\n![RSS](rss.svg)\n![open files](fds.svg)\n![latency](p99.svg)\n"
    text += "".join(f"\n    {failure}" for failure in failures[:20])
    (out / "report.md").write_text(text)
    (out / "samples.json").write_text(json.dumps({"samples": samples, "latencies": latencies}))
    print(text.split("\n\n!")[0])
    print(f"\n{out}/report.md")
    taken = min(facts["policies taken (in, out)"])
    if failures or panics or taken < facts["policies written"] - 1:
        sys.exit("\n".join(failures[:10]) or f"panics: {panics}; policies taken: {taken}")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"soak: {failure}")
