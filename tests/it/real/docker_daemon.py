"""Stands in for a Docker daemon: the real paths of its API on a Unix socket, and one container.

The container prints what it reads from its standard input, a line at a time, and "bye" at the end of that. Every request
line is written to standard output.

    docker_daemon.py SOCKET
"""

import http.server
import json
import re
import socketserver
import sys
import threading

ID = "4fa6e0f0c6786287e131c3852c58a2e01cc697a68231826813597e4994f1d6e2"
CONTAINERS = [{"Id": ID, "Names": ["/web"], "Image": "nginx", "State": "running"}]


class Container:
    """What it printed so far, and whether it goes on."""

    def __init__(self):
        self.printed, self.changed = [], threading.Condition()

    def read(self, line):
        with self.changed:
            self.printed.append(line)
            self.changed.notify_all()

    def follow(self):
        """Each line, as soon as it is printed; never ends."""
        for place in range(1 << 20):
            with self.changed:
                self.changed.wait_for(lambda: place < len(self.printed))
                line = self.printed[place]
            yield line


WEB = Container()


def framed(line):
    """As of a container without a terminal: stream 1 is standard output."""
    return b"\1\0\0\0" + len(line).to_bytes(4, "big") + line


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "Docker/27.5.1 (linux)"

    def log_message(self, *_):
        print(self.requestline, self.headers.get("Upgrade", "-"), flush=True)

    def any(self):
        path, _, query = self.path.partition("?")
        for method, pattern, answer in ROUTES:
            # As the daemon's router: every route with a version and without.
            if self.command == method and re.fullmatch(rf"(/v[0-9.]+)?{pattern}", path):
                return answer(self, query)
        return self.json({"message": "page not found"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = any

    def json(self, value, status=200):
        self.plain(json.dumps(value).encode() + b"\n", "application/json", status)

    def plain(self, body, kind="text/plain; charset=utf-8", status=200):
        self.send_response(status)
        self.send_header("Api-Version", "1.47")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def chunks(self, kind, pieces):
        """Sends each piece as soon as there is one."""
        self.send_response(200)
        self.send_header("Api-Version", "1.47")
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def logs(self, query):
        lines = WEB.follow() if "follow=1" in query else list(WEB.printed)
        self.chunks("application/vnd.docker.multiplexed-stream", (framed(line) for line in lines))

    def stats(self, query):
        one = json.dumps({"id": ID, "memory_stats": {"usage": 1 << 20}}).encode() + b"\n"
        self.chunks("application/json", [one] * (1 if "stream=0" in query else 3))

    def attach(self, _query):
        if self.headers.get("Upgrade") != "tcp":
            return self.json({"message": "this stand-in attaches by Upgrade alone"}, 400)
        self.close_connection = True
        self.send_response(101, "UPGRADED")
        self.send_header("Content-Type", "application/vnd.docker.multiplexed-stream")
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "tcp")
        self.end_headers()
        for line in self.rfile:
            WEB.read(line)
            self.wfile.write(framed(line))
        self.wfile.write(framed(b"bye\n"))


ONE = r"/containers/[^/]+"
ROUTES = [
    ("GET", "/_ping", lambda self, _: self.plain(b"OK")),
    ("HEAD", "/_ping", lambda self, _: self.plain(b"OK")),
    ("GET", "/version", lambda self, _: self.json({"Version": "27.5.1", "ApiVersion": "1.47", "MinAPIVersion": "1.24"})),
    ("GET", "/info", lambda self, _: self.json({"ID": "stand-in", "Containers": 1, "OperatingSystem": "Debian"})),
    ("GET", "/containers/json", lambda self, _: self.json(CONTAINERS)),
    ("GET", f"{ONE}/json", lambda self, _: self.json({"Id": ID, "Config": {"Tty": False, "Env": []}})),
    ("GET", f"{ONE}/logs", Handler.logs),
    ("GET", f"{ONE}/stats", Handler.stats),
    ("GET", "/images/json", lambda self, _: self.json([{"Id": "sha256:" + ID, "RepoTags": ["nginx:latest"]}])),
    ("POST", f"{ONE}/attach", Handler.attach),
    # What must never be reached.
    ("POST", "/containers/create", lambda self, _: self.json({"Id": ID, "Warnings": []}, 201)),
    ("POST", f"{ONE}/(start|stop|kill|restart)", lambda self, _: self.plain(b"", status=204)),
    ("POST", f"{ONE}/exec", lambda self, _: self.json({"Id": "exec"}, 201)),
    ("GET", f"{ONE}/archive", lambda self, _: self.plain(b"root:x:0:0", "application/x-tar")),
    ("GET", f"{ONE}/export", lambda self, _: self.plain(b"all of it", "application/x-tar")),
]


class Daemon(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


Daemon(sys.argv[1], Handler).serve_forever()
