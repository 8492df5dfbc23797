//! Messages to fool a reader with: the framing corpora, plain ones, and both with a few bytes changed.

use serde_json::Value;

const CORPUS: [&str; 2] = [
    include_str!("../../../tests/vectors/http/h1_framing_sample.json"),
    include_str!("../../../tests/vectors/http/h1_hostile.json"),
];

const REQUESTS: [&str; 12] = [
    "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "GET /a/b?c=d HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\nX-One: 1\r\nx-one: 2\r\n\r\n",
    "HEAD /a HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\nGET /b HTTP/1.1\r\nHost: b\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /b HTTP/1.1\r\nHost: b\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET /b HTTP/1.1\r\nHost: b\r\n\r\n",
    "PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: b\r\n\r\n",
    "PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\nh\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\nx-two: 2\r\n\r\nGET /b HTTP/1.1\r\nHost: b\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhiGET /b HTTP/1.1\r\nHost: b\r\n\r\n",
    "GET http://a.example/a HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "DELETE /%7e/[x]/;y HTTP/1.1\r\nHost: a\r\nX-Opaque: \u{e9}\t\u{ff}\r\nX-Empty:\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\nnot enough",
];

const RESPONSES: [&str; 6] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    "HTTP/1.1 204 No Content\r\nA: b\r\n\r\nHTTP/1.1 304\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhello",
    "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 500 \r\nConnection: close\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
];

/// What readers trip over.
const BYTES: &[u8] = b"\r\n\r\n\r\n  \t\0\x0B\x0C\x1F\x7F:;,#/?%+-_.=\"(019aAfFxGP\x80\xA0\xFF";

const LINES: [&str; 16] = [
    "\r\n",
    "\n",
    "\r",
    "\r\n ",
    "Content-Length: 5\r\n",
    "Content-Length: 6\r\n",
    "content-length:\t5 \r\n",
    "Content-Length: +5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer-Encoding : chunked\r\n",
    "Connection: close\r\n",
    "Expect: 100-continue\r\n",
    "0\r\n\r\n",
    "1\r\nx\r\n",
    "GET /c HTTP/1.1\r\nHost: c\r\n\r\n",
];

/// The corpora, then the plain requests.
pub(crate) fn requests() -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    for corpus in CORPUS {
        let corpus: Value = serde_json::from_str(corpus).unwrap();
        messages.extend(corpus["vectors"].as_array().unwrap().iter().map(message));
    }
    messages.extend(REQUESTS.iter().map(|text| octets(text)));
    messages
}

pub(crate) fn responses() -> Vec<Vec<u8>> {
    RESPONSES.iter().map(|text| octets(text)).collect()
}

/// A message of `seeds` with up to three changes, the same for the same `number`.
pub(crate) fn mutated(seeds: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut random = Random(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let short: Vec<&Vec<u8>> = seeds.iter().filter(|seed| seed.len() < 1000).collect();
    // Half of them start from the plain messages, which come last: most changes to the others are changes to nonsense.
    let plain = short.len() - REQUESTS.len().min(short.len());
    let from = random.below(2) * plain;
    let mut message = short[from + random.below(short.len() - from)].clone();
    for _ in 0..=random.below(3) {
        let at = random.below(message.len() + 1);
        let byte = BYTES[random.below(BYTES.len())];
        match random.below(7) {
            0 => message.insert(at, byte),
            1 if at < message.len() => message[at] = byte,
            2 if at < message.len() => drop(message.remove(at)),
            3 => message.truncate(at),
            4 => {
                let line = LINES[random.below(LINES.len())].bytes();
                let at = line_start(&message, at);
                message.splice(at..at, line);
            }
            5 => {
                let line = LINES[random.below(LINES.len())].bytes();
                message.splice(at..at, line);
            }
            _ => {
                let other = short[random.below(short.len())];
                let from = line_start(other, random.below(other.len()));
                message.truncate(line_start(&message, at));
                message.extend_from_slice(&other[from..]);
            }
        }
    }
    message
}

/// The start of the line that has the byte `at`.
fn line_start(message: &[u8], at: usize) -> usize {
    let end = message[..at].iter().rposition(|byte| *byte == b'\n');
    end.map_or(0, |end| end + 1)
}

/// A row of a corpus as octets: whole in base64, or as texts to be repeated.
fn message(row: &Value) -> Vec<u8> {
    if let Some(parts) = row["parts"].as_array() {
        let part = |part: &Value| {
            let times = usize::try_from(part[1].as_u64().unwrap()).unwrap();
            part[0].as_str().unwrap().repeat(times).into_bytes()
        };
        return parts.iter().flat_map(part).collect();
    }
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    engine.decode(row["raw_b64"].as_str().unwrap()).unwrap()
}

/// A text written in Latin-1.
fn octets(text: &str) -> Vec<u8> {
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).unwrap())
        .collect()
}

/// Marsaglia's xorshift64: the same messages on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % end.max(1)
    }
}
