"""WebSockets of wsproto, which only turns octets into events and back: what is sent, and when, is written here.

    wsproto_peer.py serve PORT
    wsproto_peer.py call HOST:PORT            # all of it, a line for each
    wsproto_peer.py echo HOST:PORT            # what passes with any server that echoes below /ws/echo
    wsproto_peer.py attempt HOST:PORT PATH    # the status that refuses, or "open"
"""

import random
import socket
import sys
import threading

from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, RejectConnection, RejectData, Request, TextMessage
from wsproto.extensions import PerMessageDeflate

QUIET_S = 0.5


class End:
    """One end of a WebSocket."""

    def __init__(self, stream, role, at_once=65536):
        self.stream, self.ws, self.events, self.pongs, self.at_once = stream, WSConnection(role), [], [], at_once

    def send(self, *events):
        self.stream.sendall(b"".join(self.ws.send(event) for event in events))

    def next(self):
        """The next event; None when the other end has gone without a word."""
        while not self.events:
            octets = self.stream.recv(self.at_once)
            if not octets:
                return None
            self.ws.receive_data(octets)
            self.events.extend(self.ws.events())
        return self.events.pop(0)

    def expect(self, kind):
        """The next event of this kind; pings are answered."""
        while not isinstance(event := self.next(), kind):
            if event is None or isinstance(event, CloseConnection):
                raise EOFError(event)
            if isinstance(event, Ping):
                self.send(event.response())
            elif isinstance(event, Pong):
                self.pongs.append(bytes(event.payload))
        return event

    def frames(self):
        """The frames of the next message: TCP may have cut them into more events."""
        frames, whole = [], True
        while True:
            event = self.expect((TextMessage, BytesMessage))
            if whole:
                frames.append(event.data)
            else:
                frames[-1] += event.data
            whole = event.frame_finished
            if event.message_finished:
                return frames

    def expect_close(self):
        """The code that ends it."""
        while not isinstance(event := self.next(), CloseConnection):
            if event is None:
                raise EOFError
        return int(event.code)

    def message(self):
        frames = self.frames()
        return type(frames[0])().join(frames)


def serve(port):
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            stream, _ = listener.accept()
            threading.Thread(target=served, args=(stream,), daemon=True).start()


def served(stream):
    with stream:
        # No more than the request, so that what comes early stays where it can be seen.
        end = End(stream, ConnectionType.SERVER, at_once=1)
        try:
            request, end.at_once = end.next(), 65536
            if request is not None:
                serve_path(end, *request.target.removeprefix("/ws/").split("/"))
        except (OSError, EOFError):
            pass  # The client says how.


def serve_path(end, what, *more):
    if what == "reject":
        end.send(RejectConnection(status_code=int(more[0]), headers=[(b"x-reason", b"asked for"), (b"content-length", b"2")], has_body=True),
                 RejectData(b"no", body_finished=True))
        return
    early = what == "early" and was_early(end.stream)
    end.send(AcceptConnection(subprotocol="chat", extensions=[PerMessageDeflate()]))
    if what == "early":
        end.send(TextMessage("early" if early else "quiet"))
    elif what == "ping":
        end.send(Ping(b"are you there"))
        end.send(TextMessage(bytes(end.expect(Pong).payload).decode()))
    elif what == "close":
        end.expect(TextMessage)
        end.send(CloseConnection(int(more[0]), "as asked"))
    while (event := end.next()) is not None:
        if isinstance(event, (TextMessage, BytesMessage)):
            # As it came, so that fragments go back as fragments.
            end.send(type(event)(event.data, message_finished=event.message_finished))
        elif isinstance(event, Ping):
            end.send(event.response())
        elif isinstance(event, CloseConnection):
            if what != "close":
                end.send(event.response())
            return


def was_early(stream):
    """Whether anything comes before the upgrade is agreed to."""
    stream.settimeout(QUIET_S)
    try:
        return bool(stream.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False
    finally:
        stream.settimeout(None)


def opened(path, compressed=False, early=b""):
    """The end, and what the server said to the request."""
    host, port = sys.argv[2].split(":")
    end = End(socket.create_connection((host, int(port)), timeout=30), ConnectionType.CLIENT)
    extensions = [PerMessageDeflate()] if compressed else []
    request = end.ws.send(Request(host="orders", target=path, subprotocols=["chat"], extensions=extensions))
    end.stream.sendall(request + early)
    return end, end.next()


def echoes():
    """What passes with any server that says back what it hears."""
    for compressed in (False, True):
        end, accepted = opened("/ws/echo", compressed)
        print("accepted", accepted.subprotocol, [extension.name for extension in accepted.extensions])
        large = random.Random(1).randbytes(1 << 20)
        end.send(BytesMessage(large[:1], message_finished=False), BytesMessage(large[1:70_000], message_finished=False), BytesMessage(large[70_000:]))
        print("1 MiB in fragments", end.message() == large)
        end.send(TextMessage("hällo"), TextMessage(""), TextMessage("ö" * 100_000))
        print("texts", end.message(), repr(end.message()), end.message() == "ö" * 100_000)
        if not compressed:
            # Among the frames of a compressed message wsproto loses its place.
            end.send(TextMessage("one ", message_finished=False), Ping(b"between"), TextMessage("two"))
            print("pong", end.message(), end.pongs)
        end.send(CloseConnection(1000, "done"))
        print("closed by us", end.expect_close())
    for code in (1001, 3000, 4999):
        end, _ = opened("/ws/echo")
        end.send(CloseConnection(code, "own"))
        print("closed by us", end.expect_close())


def calls():
    """What takes a server of our own."""
    end, _ = opened("/ws/echo")
    end.send(TextMessage("a", message_finished=False), TextMessage("", message_finished=False), TextMessage("bb", message_finished=False), TextMessage(""))
    print("fragments", end.frames())
    end, _ = opened("/ws/ping")
    print("the server heard our pong:", end.message())
    for code in (1000, 1011, 4321):
        end, _ = opened(f"/ws/close/{code}")
        end.send(TextMessage("close"))
        closed = end.next()
        print("closed by the server", int(closed.code), closed.reason)
        end.send(closed.response())
    # Frames right behind the request, which the server has not agreed to.
    early = Connection(ConnectionType.CLIENT)
    end, accepted = opened("/ws/early", early=early.send(TextMessage("too soon")))
    print("early", type(accepted).__name__, end.message(), end.message())
    for status in (403, 426, 503):
        end, rejected = opened(f"/ws/reject/{status}")
        print("rejected", rejected.status_code, dict(rejected.headers).get(b"x-reason"), bytes(end.expect(RejectData).data))


def attempt(path):
    _, answer = opened(path)
    print(answer.status_code if isinstance(answer, RejectConnection) else "open")


match sys.argv[1:]:
    case ["serve", port]:
        serve(int(port))
    case ["echo", _]:
        echoes()
    case ["call", _]:
        calls()
    case ["attempt", _, path]:
        attempt(path)
