//! A client that writes what no HTTP/2 library would: frames and header blocks as octets (RFC 9113, RFC 7541).

use crate::harness::{
    App, Authority, FRONTEND, Life, ORDERS, Sidecar, outbound, service, sidecar, tls,
};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) const DATA: u8 = 0x0;
pub(crate) const HEADERS: u8 = 0x1;
pub(crate) const PRIORITY: u8 = 0x2;
pub(crate) const RST_STREAM: u8 = 0x3;
pub(crate) const SETTINGS: u8 = 0x4;
pub(crate) const PUSH_PROMISE: u8 = 0x5;
pub(crate) const PING: u8 = 0x6;
pub(crate) const GOAWAY: u8 = 0x7;
pub(crate) const WINDOW_UPDATE: u8 = 0x8;
pub(crate) const CONTINUATION: u8 = 0x9;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const OPEN: u8 = 0x4;
pub(crate) const WHOLE: u8 = 0x5;
pub(crate) const PADDED: u8 = 0x8;

pub(crate) const PROTOCOL_ERROR: u32 = 0x1;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 0x3;
pub(crate) const STREAM_CLOSED: u32 = 0x5;
pub(crate) const FRAME_SIZE_ERROR: u32 = 0x6;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 0xb;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Far more than any verdict takes.
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block of literals that are never indexed nor compressed.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|(name, value)| [vec![0], string(name), string(value)].concat())
        .collect()
}

/// A string literal of up to 16 510 octets (RFC 7541 section 5.2).
pub(crate) fn string(text: &str) -> Vec<u8> {
    let mut octets = match text.len() {
        short @ 0..127 => vec![short as u8],
        long => vec![
            127,
            ((long - 127) & 0x7f) as u8 | 0x80,
            ((long - 127) >> 7) as u8,
        ],
    };
    octets.extend(text.as_bytes());
    octets
}

/// The pseudo-fields of a good request, then `fields`.
pub(crate) fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [
        (":method", method),
        (":scheme", "https"),
        (":path", path),
        (":authority", "orders.shop.example"),
    ];
    block(&[&pseudo, fields].concat())
}

/// A sidecar with an app behind it, and whoever may call it.
pub(crate) struct Mesh {
    authority: Authority,
    pub(crate) app: App,
    pub(crate) sidecar: Sidecar,
}

impl Mesh {
    pub(crate) async fn new(documents: &str) -> Self {
        let authority = Authority::new();
        let app = App::start().await;
        let orders = authority.svid(ORDERS, Life::Hour);
        let sidecar = sidecar(&authority, orders, app.address, documents, |config| {
            config.outbound = outbound(vec![service("orders.shop.example", app.address, ORDERS)]);
        });
        Self {
            authority,
            app,
            sidecar,
        }
    }

    /// A caller's connection on which preface and SETTINGS are exchanged.
    pub(crate) async fn connect(&self) -> Raw {
        self.silent().await.greeted().await
    }

    /// A connection of the workload, with prior knowledge and in plain text, as far.
    pub(crate) async fn connect_workload(&self) -> Raw {
        let stream = TcpStream::connect(self.sidecar.outbound()).await.unwrap();
        Raw::new(stream).greeted().await
    }

    /// A caller's connection on which nothing was said yet.
    pub(crate) async fn silent(&self) -> Raw {
        let frontend = self.authority.svid(FRONTEND, Life::Hour);
        let stream = tls(
            self.sidecar.inbound,
            &self.authority,
            Some(&frontend),
            b"h2",
        )
        .await;
        Raw::new(stream.unwrap())
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

pub(crate) struct Raw {
    stream: Box<dyn Stream>,
    rest: Vec<u8>,
}

/// What the sidecar said.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Status codes of responses, by stream.
    pub(crate) statuses: Vec<(u32, u16)>,
    pub(crate) body: String,
    /// Codes of RST_STREAM frames, by stream.
    pub(crate) resets: Vec<(u32, u32)>,
    /// Of the last GOAWAY.
    pub(crate) goaway: Option<u32>,
    pub(crate) is_closed: bool,
}

impl Raw {
    fn new(stream: impl Stream + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            rest: Vec::new(),
        }
    }

    async fn greeted(mut self) -> Self {
        let settings = [frame(SETTINGS, 0, 0, b""), frame(SETTINGS, 1, 0, b"")].concat();
        self.write(&[PREFACE, &settings].concat()).await;
        self
    }

    /// Writes what the sidecar takes. Whether it took all: it may close meanwhile.
    pub(crate) async fn write(&mut self, octets: &[u8]) -> bool {
        let written = timeout(DEADLINE, self.stream.write_all(octets)).await;
        written.expect("a sidecar that reads or closes").is_ok()
    }

    /// Listens until `stream` has ended either way, or the connection has.
    pub(crate) async fn until_ended(&mut self, stream: u32) -> Heard {
        self.listen(|kind, flags, of| {
            let is_last = kind == RST_STREAM || (kind <= HEADERS && flags & END_STREAM != 0);
            of == stream && is_last
        })
        .await
    }

    /// Listens until the connection has ended.
    pub(crate) async fn until_closed(&mut self) -> Heard {
        self.listen(|_, _, _| false).await
    }

    async fn listen(&mut self, is_last: impl Fn(u8, u8, u32) -> bool) -> Heard {
        let mut heard = Heard::default();
        loop {
            let Some((kind, flags, stream, payload)) = self.next().await else {
                heard.is_closed = true;
                return heard;
            };
            match kind {
                DATA => heard.body += std::str::from_utf8(&payload).unwrap(),
                HEADERS => heard
                    .statuses
                    .extend(status(&payload).map(|status| (stream, status))),
                RST_STREAM => heard.resets.push((stream, code(&payload))),
                GOAWAY => heard.goaway = Some(code(&payload[4..])),
                _ => {}
            }
            if is_last(kind, flags, stream) {
                return heard;
            }
        }
    }

    /// The next frame; `None` when the sidecar has closed.
    async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        loop {
            if let Some((head, rest)) = self.rest.split_first_chunk::<9>() {
                let [a, b, c, kind, flags, stream @ ..] = *head;
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                if rest.len() >= length {
                    let payload = rest[..length].to_vec();
                    self.rest.drain(..9 + length);
                    return Some((kind, flags, u32::from_be_bytes(stream), payload));
                }
            }
            let read = timeout(DEADLINE, self.stream.read_buf(&mut self.rest)).await;
            match read.expect("a verdict within the deadline") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

fn code(payload: &[u8]) -> u32 {
    u32::from_be_bytes(*payload.first_chunk().unwrap())
}

/// The status in the first response of a connection: the tables of HPACK are still as they began. None for trailers.
fn status(block: &[u8]) -> Option<u16> {
    match *block {
        // Literal with the name `:status`, with or without being indexed; h2 compresses all strings.
        [0x48 | 0x08, length, ref rest @ ..] if length & 0x80 != 0 => {
            let bits: Vec<u8> = rest[..usize::from(length & 0x7f)]
                .iter()
                .flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1))
                .collect();
            Some(digits(&bits))
        }
        [indexed @ 0x88..=0x8e, ..] => {
            Some([200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)])
        }
        _ => None,
    }
}

/// Three digits in the Huffman code of HPACK: 0, 1 and 2 have five bits, the others six (RFC 7541 appendix B).
fn digits(mut bits: &[u8]) -> u16 {
    let mut number = 0;
    for _ in 0..3 {
        let five = bits[..5]
            .iter()
            .fold(0, |value, bit| value << 1 | u16::from(*bit));
        let (digit, length) = match five {
            0..=2 => (five, 5),
            _ => ((five << 1 | u16::from(bits[5])) - 22, 6),
        };
        number = number * 10 + digit;
        bits = &bits[length..];
    }
    number
}
