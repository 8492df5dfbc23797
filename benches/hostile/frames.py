"""HTTP/2 as octets: frames, header blocks, and what a server says when it ends a connection (RFC 9113, RFC 7541)."""

from struct import pack, unpack_from

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
OPEN, WHOLE = END_HEADERS, END_HEADERS | END_STREAM
CODES = ["NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR",
         "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"]
INITIAL_WINDOW_SIZE = 4


def frame(kind, flags=0, stream=0, payload=b""):
    return pack(">HBBBI", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def settings(*pairs):
    return frame(SETTINGS, payload=b"".join(pack(">HI", *pair) for pair in pairs))


def window_update(stream, increment):
    return frame(WINDOW_UPDATE, 0, stream, pack(">I", increment))


def reset(stream, code=8):
    return frame(RST_STREAM, 0, stream, pack(">I", code))


def text(value):
    """A string literal without Huffman coding."""
    value = value.encode()
    length = bytes([len(value)]) if len(value) < 127 else integer(len(value), 7)
    return length + value


def integer(value, prefix, pattern=0):
    most = (1 << prefix) - 1
    if value < most:
        return bytes([pattern | value])
    octets, value = [pattern | most], value - most
    while value >= 128:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*octets, value])


def request(path="/attack/x", method="GET", *fields):
    """A header block that leaves the tables alone."""
    methods = {"GET": b"\x82", "POST": b"\x83"}
    block = methods[method] + b"\x87\x04" + text(path) + b"\x01" + text("orders")
    return block + b"".join(b"\x00" + text(name) + text(value) for name, value in fields)


# Leaves authority and path in the dynamic table; INDEXED is the same request in four octets afterwards.
INDEXING = b"\x82\x87\x41" + text("orders") + b"\x44" + text("/attack/x")
INDEXED = b"\x82\x87\xbf\xbe"


class Reader:
    """Cuts what a server sends into frames; remembers GOAWAY, and counts frames by kind."""

    def __init__(self):
        self.rest, self.goaway, self.counts = b"", None, {}

    def feed(self, octets):
        """The frames that are complete now, as (kind, flags, stream, payload)."""
        self.rest += octets
        frames, at = [], 0
        while len(self.rest) - at >= 9:
            high, low, kind, flags, stream = unpack_from(">HBBBI", self.rest, at)
            end = at + 9 + (high << 8 | low)
            if len(self.rest) < end:
                break
            payload = self.rest[at + 9:end]
            at = end
            self.counts[kind] = self.counts.get(kind, 0) + 1
            if kind == GOAWAY:
                code = unpack_from(">I", payload, 4)[0]
                self.goaway = CODES[code] if code < len(CODES) else hex(code)
            frames.append((kind, flags, stream & 0x7FFFFFFF, payload))
        self.rest = self.rest[at:]
        return frames
