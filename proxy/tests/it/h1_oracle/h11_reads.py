"""Reads connections with h11: one a line in hexadecimal on stdin, what h11 made of each as a line of JSON on stdout."""

import json
import sys

import h11


def fields(headers):
    return [[name.hex(), value.hex()] for name, value in headers]


def read(octets):
    messages, error = [], None
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(octets)
    connection.receive_data(b"")
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                messages.append(
                    {
                        "method": event.method.hex(),
                        "target": event.target.hex(),
                        "fields": fields(event.headers),
                        "body": "",
                        "trailers": [],
                        "is_complete": False,
                    }
                )
            elif isinstance(event, h11.Data):
                messages[-1]["body"] += bytes(event.data).hex()
            elif isinstance(event, h11.EndOfMessage):
                messages[-1]["trailers"] = fields(event.headers)
                messages[-1]["is_complete"] = True
                # An upgrade or a tunnel that is refused is none.
                if connection.their_state not in (h11.DONE, h11.MIGHT_SWITCH_PROTOCOL):
                    break
                connection.send(h11.Response(status_code=400, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    break
                connection.start_next_cycle()
            else:
                break
    except h11.RemoteProtocolError as problem:
        error = str(problem)
    return {"messages": messages, "error": error}


for line in sys.stdin:
    print(json.dumps(read(bytes.fromhex(line.strip()))))
