//! HTTP/2 as octets (RFC 9113), as far as it takes to see the frames that a library keeps to itself.

use crate::harness::http::connect;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const SETTINGS: u8 = 0x4;
pub(super) const PING: u8 = 0x6;
pub(super) const GOAWAY: u8 = 0x7;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

#[derive(Debug)]
pub(super) struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    pub(super) payload: Vec<u8>,
}

/// A connection of a client that reads when it is told to.
pub(super) struct Raw {
    stream: TcpStream,
    /// Frames that came while another was waited for.
    unheard: Vec<Frame>,
}

impl Raw {
    /// With prior knowledge.
    pub(super) fn connect(to: SocketAddr) -> Self {
        let mut raw = Self {
            stream: connect(to),
            unheard: Vec::new(),
        };
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        raw.stream.write_all(preface).expect("writing");
        raw.say(SETTINGS, 0, 0, b"");
        raw.until(SETTINGS);
        raw.say(SETTINGS, ACK, 0, b"");
        raw
    }

    /// GET on a stream of its own.
    pub(super) fn ask(&mut self, stream: u32, path: &str) {
        let fields = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "orders"),
        ];
        // Literals without an index (RFC 7541 section 6.2.2), all of them short.
        let string =
            |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
        let block = fields.map(|(name, value)| [vec![0], string(name), string(value)].concat());
        self.say(HEADERS, END_STREAM | END_HEADERS, stream, &block.concat());
    }

    /// The body of an answer that comes to its end.
    pub(super) fn answer(&mut self, stream: u32) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let frame = self.next(|frame| frame.stream == stream);
            assert!(frame.kind <= HEADERS, "{frame:?}");
            if frame.kind == DATA {
                body.extend(frame.payload);
            }
            if frame.flags & END_STREAM != 0 {
                return body;
            }
        }
    }

    /// The next frame of this kind.
    pub(super) fn until(&mut self, kind: u8) -> Frame {
        self.next(|frame| frame.kind == kind)
    }

    pub(super) fn acknowledge(&mut self, ping: &Frame) {
        self.say(PING, ACK, 0, &ping.payload);
    }

    fn next(&mut self, is_it: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            if let Some(place) = self.unheard.iter().position(&is_it) {
                return self.unheard.remove(place);
            }
            let frame = self.read();
            self.unheard.push(frame);
        }
    }

    fn read(&mut self) -> Frame {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).expect("another frame");
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut payload = vec![0; usize::try_from(length).expect("small")];
        self.stream.read_exact(&mut payload).expect("all of it");
        Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream),
            payload,
        }
    }

    fn say(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.stream.write_all(&frame).expect("writing");
    }
}
