"""Load on a running pair. Each function gives one sample: a dict of numbers."""

import json
import os
import re
import socket
import ssl
import subprocess
from pathlib import Path

import pki
from checks import ALLOWED
from machine import Failure

HERE = Path(__file__).resolve().parent


def measured(pair, work):
    """Runs `work`, which returns its sample with a `requests` count; adds CPU per request of both sides."""
    before = pair.outbound.usage(), pair.inbound.usage()
    sample = work()
    after = pair.outbound.usage(), pair.inbound.usage()
    if sample["requests"] == 0:
        raise Failure(f"{pair.name}: not one request was answered")
    out_us, in_us = ((b.cpu_us - a.cpu_us) / sample["requests"] for a, b in zip(before, after))
    return {**sample, "out_us": out_us, "in_us": in_us, "sum_us": out_us + in_us,
            "loaded_out": after[0].rss, "loaded_in": after[1].rss}


def wrk(pair, connections, seconds, pace_ms=None):
    """Keep-alive clients in a closed loop; with `pace_ms` each rests between requests."""
    env = {**os.environ, **({"PACE_MS": str(pace_ms)} if pace_ms else {})}
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", HERE / "load.lua", "-H", "Host: orders",
               f"http://127.0.0.1:{pair.outbound_port}{ALLOWED}"]
    done = subprocess.run(command, text=True, capture_output=True, check=False, env=env)
    line = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    if not line:
        raise Failure(f"wrk: {done.stdout}{done.stderr}")
    sample = json.loads(line[1])
    if sample["errors"]:
        raise Failure(f"{pair.name}: {sample['errors']} failed requests of {sample['requests']}")
    return sample


def handshakes(pair, seconds):
    """A new mTLS connection to the inbound side for each request; the outbound side is idle."""
    command = ["ab", "-q", "-t", seconds, "-n", 10_000_000, "-c", 16, "-f", "TLS1.3", "-E", pair.authority.certificate(pki.FRONTEND),
               "-H", "Host: orders", f"https://127.0.0.1:{pair.inbound_port}{ALLOWED}"]
    done = subprocess.run(list(map(str, command)), text=True, capture_output=True, check=False)
    # ab's own "failed" counts answers whose length differs, so only the others are looked at.
    number = {key: float(value) for key, value in re.findall(r"^(Complete requests|Non-2xx responses|Time taken for tests):\s+([\d.]+)", done.stdout, re.MULTILINE)}
    percent = dict(re.findall(r"^\s+(50|99)%\s+(\d+)", done.stdout, re.MULTILINE))
    broken = re.search(r"Connect: (\d+), Receive: (\d+), Length: \d+, Exceptions: (\d+)", done.stdout)
    if "Complete requests" not in number or number.get("Non-2xx responses") or (broken and any(map(int, broken.groups()))):
        raise Failure(f"{pair.name}: ab: {done.stdout}{done.stderr}")
    return {"requests": int(number["Complete requests"]), "seconds": number["Time taken for tests"],
            "p50_us": int(percent["50"]) * 1000, "p99_us": int(percent["99"]) * 1000, "errors": 0}


def idle_connections(pair, count):
    """What `count` mTLS connections cost the inbound side in memory, each idle after one request."""
    context = ssl.create_default_context(cafile=pair.authority.bundle)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(pair.authority.certificate(pki.FRONTEND))
    request = f"GET {ALLOWED} HTTP/1.1\r\nHost: orders\r\n\r\n".encode()
    before, connections = pair.inbound.usage().rss, []
    try:
        for _ in range(count):
            plain = socket.create_connection(("127.0.0.1", pair.inbound_port), timeout=10)
            connections.append(context.wrap_socket(plain))
            connections[-1].sendall(request)
            answer = connections[-1].recv(4096)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise Failure(f"{pair.name}: idle connection {len(connections)}: {answer[:200]}")
        after = pair.inbound.usage().rss
    finally:
        for connection in connections:
            connection.close()
    return {"before": before, "after": after, "each": (after - before) / count}
