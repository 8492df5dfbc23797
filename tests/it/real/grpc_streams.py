"""All four kinds of gRPC call, with metadata before and after the messages.

    grpc_streams.py serve HOST:PORT [CHAIN KEY]  # with these files over TLS
    grpc_streams.py call HOST:PORT AUTHORITY  # all of it, a line for each
    grpc_streams.py talk HOST:PORT AUTHORITY  # sends what it reads, a message a line, and prints what it hears
    grpc_streams.py load HOST:PORT AUTHORITY  # unary calls and open streams until it reads a line, then how many of each failed
"""

import queue
import sys
import threading
from concurrent import futures

import grpc

BINARY = bytes(range(256))


def begin(context):
    """What the caller said of itself is told back before the first message and after the last."""
    said = dict(context.invocation_metadata())
    context.send_initial_metadata([("begun-for", said.get("asked-by", "nobody"))])
    context.set_trailing_metadata([("ended-for", said.get("asked-by", "nobody")), ("ended-bin", said.get("asked-bin", b""))])


def get(request, context):
    begin(context)
    return request


def many(request, context):
    begin(context)
    return (b"%d" % n for n in range(int(request)))


def total(requests, context):
    begin(context)
    return b"%d" % sum(len(request) for request in requests)


def talk(requests, context):
    begin(context)
    for request in requests:
        yield request
        if request == b"enough":
            return


def fail(request, context):
    begin(context)
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nicht heute, 100 % sicher: ✗")


KINDS = {
    "Get": grpc.unary_unary_rpc_method_handler(get),
    "Many": grpc.unary_stream_rpc_method_handler(many),
    "Total": grpc.stream_unary_rpc_method_handler(total),
    "Talk": grpc.stream_stream_rpc_method_handler(talk),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
}


class Handler(grpc.GenericRpcHandler):
    def service(self, call):
        return KINDS.get(call.method.removeprefix("/shop.v1.Streams/"))


def serve(address, *tls):
    server = grpc.server(futures.ThreadPoolExecutor(32), handlers=[Handler()])
    if tls:
        chain, key = (open(file, "rb").read() for file in tls)
        assert server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)]))
    else:
        assert server.add_insecure_port(address)
    server.start()
    threading.Event().wait(400)


def open_channel(*options):
    return grpc.insecure_channel(sys.argv[2], options=[("grpc.default_authority", sys.argv[3]), *options])


METADATA = [("asked-by", "the front"), ("asked-bin", BINARY)]


def around(call):
    before, after = dict(call.initial_metadata()), dict(call.trailing_metadata())
    return f"{before.get('begun-for')}, {after.get('ended-for')}, {after.get('ended-bin') == BINARY}, {call.code().name}"


def call_all():
    channel = open_channel()

    def method(kind, name):
        return getattr(channel, kind)("/shop.v1.Streams/" + name)

    large = BINARY * 4096
    reply, call = method("unary_unary", "Get").with_call(large, timeout=30, metadata=METADATA)
    print("unary", reply == large, around(call))
    call = method("unary_stream", "Many")(b"1000", timeout=30, metadata=METADATA)
    print("server", list(call) == [b"%d" % n for n in range(1000)], around(call))
    reply, call = method("stream_unary", "Total").with_call((large for _ in range(5)), timeout=30, metadata=METADATA)
    print("client", reply == b"%d" % (5 * len(large)), around(call))
    call = method("stream_stream", "Talk")((b"%d" % n for n in range(1000)), timeout=30, metadata=METADATA)
    print("both", list(call) == [b"%d" % n for n in range(1000)], around(call))

    # One after the other: each is answered before the next is sent, and the server ends while the client could go on.
    turn = threading.Semaphore(1)

    def asked():
        for word in (b"one", b"two", b"enough", b"never"):
            turn.acquire(timeout=30)
            yield word

    call = method("stream_stream", "Talk")(asked(), timeout=30, metadata=METADATA)
    heard = []
    for word in call:
        heard.append(word.decode())
        turn.release()
    print("turns", heard, around(call))
    call = method("unary_stream", "Many")(b"0", timeout=30, metadata=METADATA)
    print("none", list(call), around(call))
    try:
        method("unary_unary", "Fail")(b"", timeout=30, metadata=METADATA)
    except grpc.RpcError as error:
        print("failed", error.details(), around(error))
    call = method("stream_stream", "Talk")(iter(lambda: threading.Event().wait(30), None), timeout=30, metadata=METADATA)
    call.cancel()
    print("cancelled", call.code().name)


def talk_lines():
    def lines():
        for line in sys.stdin:
            yield line.rstrip("\n").encode()

    for word in open_channel().stream_stream("/shop.v1.Streams/Talk")(lines()):
        print("heard", word.decode(), flush=True)


class Loader(threading.Thread):
    """Calls one after the other on a connection of its own, beside a stream that was opened before and has a turn after each."""

    def __init__(self, over):
        super().__init__()
        self.over, self.calls, self.turns, self.failures = over, 0, 0, []

    def run(self):
        channel, words = open_channel(("grpc.use_local_subchannel_pool", 1)), queue.SimpleQueue()
        get = channel.unary_unary("/shop.v1.Streams/Get")
        talk = channel.stream_stream("/shop.v1.Streams/Talk")(iter(words.get, None))
        try:
            while not self.over.wait(0.01):
                word = b"%d" % self.calls
                assert get(word, timeout=30) == word
                self.calls += 1
                words.put(word)
                assert next(talk) == word
                self.turns += 1
            words.put(None)
            assert list(talk) == [] and talk.code() is grpc.StatusCode.OK
        except (grpc.RpcError, AssertionError, StopIteration) as error:
            self.failures.append(repr(error))


def load():
    over = threading.Event()
    loaders = [Loader(over) for _ in range(8)]
    for loader in loaders:
        loader.start()
    while any(loader.turns < 10 and loader.is_alive() for loader in loaders):
        over.wait(0.05)
    print("going", flush=True)
    sys.stdin.readline()
    over.set()
    for loader in loaders:
        loader.join(60)
    print("calls", sum(loader.calls for loader in loaders), "turns", sum(loader.turns for loader in loaders), flush=True)
    print("failed", [failure for loader in loaders for failure in loader.failures], flush=True)


if sys.argv[1] == "serve":
    serve(*sys.argv[2:])
elif sys.argv[1] == "talk":
    talk_lines()
elif sys.argv[1] == "load":
    load()
else:
    call_all()
