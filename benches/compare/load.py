"""wrk: keep-alive clients of the outbound side in a closed loop."""

import json
import os
import re
import signal
import subprocess
import time

from checks import ALLOWED
from machine import HERE, Failure

LONGEST_S = 120


def start(pair, connections, seconds, path=ALLOWED, host="orders", **env):
    """`env` goes to load.lua: PACE_MS, UPLOAD_BYTES."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", HERE / "load.lua",
               "-H", f"Host: {host}", f"http://127.0.0.1:{pair.outbound_port}{path}"]
    env = {**os.environ, **{name: str(value) for name, value in env.items()}}
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)


def finish(pair, client):
    """The sample of a wrk that has ended or is about to. One failed request fails the run."""
    output, _ = client.communicate(timeout=LONGEST_S)
    line = re.search(r"^RESULT (.*)$", output, re.MULTILINE)
    if not line:
        raise Failure(f"wrk: {output}")
    sample = json.loads(line[1])
    failures = sample.pop("failures")
    if sample.pop("errors"):
        raise Failure(f"{pair.name}: of {sample['requests']} requests failed: {failures}")
    return sample


def wrk(pair, connections, seconds, **load):
    """A sample of a whole run."""
    return finish(pair, start(pair, connections, seconds, **load))


def steady(pair, connections, seconds, answers=1, **load):
    """A sample from the middle of a run, so that no connection is made or torn down for it, with CPU and memory.

    When wrk ends it cuts the connections with a request under way, and HTTP/1 proxies then cut theirs: no pool survives
    from one run to the next. What is counted is what the servers around the pair answered: `answers` for each request.
    Latencies are of the whole run.
    """
    client = start(pair, connections, LONGEST_S, **load)
    try:
        served = pair.served()
        time.sleep(1)
        deadline = time.monotonic() + LONGEST_S / 2
        while pair.served() < served + 2 * answers * connections:
            if time.monotonic() > deadline or client.poll() is not None:
                raise Failure(f"{pair.name}: {connections} clients do not come to two answers each")
            time.sleep(0.1)
        sample = pair.measured(lambda: window(pair, seconds, answers))
    finally:
        client.send_signal(signal.SIGINT)  # It then prints what it has.
        whole = finish(pair, client)
    return {**whole, **sample, "bytes_each": whole["bytes"] / whole["requests"]}


def window(pair, seconds, answers):
    served, start = pair.served(), time.monotonic()
    time.sleep(seconds)
    # The question how many is itself one.
    return {"requests": (pair.served() - served - 1) / answers, "seconds": time.monotonic() - start}
