"""Load on a running pair. Each function gives one sample: a dict of numbers."""

import json
import os
import re
import socket
import ssl
import statistics
import subprocess
import threading
import time
from pathlib import Path

import pki
from checks import ALLOWED
from machine import Failure

HERE = Path(__file__).resolve().parent
HANDSHAKE_CLIENTS = 4


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


def wrk(pair, connections, seconds, pace_ms=None, host="orders"):
    """Keep-alive clients in a closed loop; with `pace_ms` each rests between requests."""
    env = {**os.environ, **({"PACE_MS": str(pace_ms)} if pace_ms else {})}
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", HERE / "load.lua", "-H", f"Host: {host}",
               f"http://127.0.0.1:{pair.outbound_port}{ALLOWED}"]
    done = subprocess.run(command, text=True, capture_output=True, check=False, env=env)
    line = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    if not line:
        raise Failure(f"wrk: {done.stdout}{done.stderr}")
    sample = json.loads(line[1])
    failures = sample.pop("failures")
    if sample.pop("errors"):
        raise Failure(f"{pair.name}: of {sample['requests']} requests failed: {failures}")
    return sample


def handshakes(pair, connections, seconds):
    """A full mTLS handshake for each request, first made by the outbound side and then by the inbound side.

    Outbound: requests for a server that ends each connection after one answer. Inbound: clients that do so.
    """
    making = measured(pair, lambda: wrk(pair, connections, seconds, host="closing"))
    taking = measured(pair, lambda: new_connections(pair, seconds))
    return {**taking, "out_us": making["out_us"], "sum_us": making["out_us"] + taking["in_us"], "loaded_out": making["loaded_out"]}


def new_connections(pair, seconds):
    """Clients that connect to the inbound side with a full handshake for each request."""
    context, times, failures = client_context(pair), [], []
    deadline = time.monotonic() + seconds

    def client():
        try:
            while (start := time.monotonic()) < deadline:
                connect_and_ask(pair, context).close()
                times.append(time.monotonic() - start)
        except (OSError, Failure) as failure:
            failures.append(failure)

    clients = [threading.Thread(target=client) for _ in range(HANDSHAKE_CLIENTS)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    if failures:
        raise Failure(f"{pair.name}: new connection {len(times)}: {failures[0]}")
    percentiles = statistics.quantiles(times, n=100)
    return {"requests": len(times), "seconds": seconds, "p50_us": percentiles[49] * 1e6, "p99_us": percentiles[98] * 1e6}


def idle_connections(pair, count):
    """What `count` mTLS connections cost the inbound side in memory, each idle after one request."""
    context, connections = client_context(pair), []
    before = pair.inbound.usage().rss
    try:
        for _ in range(count):
            connections.append(connect_and_ask(pair, context))
        after = pair.inbound.usage().rss
    finally:
        for connection in connections:
            connection.close()
    return {"before": before, "after": after, "each": (after - before) / count}


def client_context(pair):
    context = ssl.create_default_context(cafile=pair.authority.bundle)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(pair.authority.certificate(pki.FRONTEND))
    return context


def connect_and_ask(pair, context):
    """A new connection to the inbound side over which one request was answered."""
    plain = socket.create_connection(("127.0.0.1", pair.inbound_port), timeout=10)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection = context.wrap_socket(plain)
    try:
        connection.sendall(f"GET {ALLOWED} HTTP/1.1\r\nHost: orders\r\n\r\n".encode())
        answer = connection.recv(4096)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise Failure(f"{pair.name}: {answer[:200]}")
    except BaseException:
        connection.close()
        raise
    return connection
