"""A WebSocket server that does what the path says. Each opened connection is a line on standard output.

    websocket_server.py PORT
"""

import asyncio
import sys

from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Response


async def handle(connection):
    path = connection.request.path
    print("opened", path, flush=True)
    try:
        await serve_path(connection, path)
    except ConnectionClosed:
        pass  # The client says how.


async def serve_path(connection, path):
    if path.startswith("/ws/close/"):
        code, reason = path.removeprefix("/ws/close/").split("/")
        await connection.recv()
        await connection.close(int(code), reason)
    elif path == "/ws/pings":
        await (await connection.ping(b"are you there"))
        await connection.send("you are")
        await connection.wait_closed()
    elif path == "/ws/fragments":
        while True:
            await connection.send(str([len(part) async for part in connection.recv_streaming()]))
    else:
        async for message in connection:
            await connection.send(message)


def refuse(_connection, request):
    """An answer in place of the upgrade, where the path asks for one."""
    if not request.path.startswith("/ws/answer/"):
        return None
    status = int(request.path.removeprefix("/ws/answer/"))
    body = b"no WebSocket here"
    headers = Headers({"Content-Length": str(len(body)), "X-Reason": "asked for"})
    return Response(status, "Asked For", headers, body)


async def main():
    async with serve(handle, "127.0.0.1", int(sys.argv[1]), process_request=refuse, subprotocols=["chat"], max_size=4 << 20) as server:
        await server.serve_forever()


asyncio.run(main())
