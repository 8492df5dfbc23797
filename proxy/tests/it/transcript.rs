//! What a peer makes of the bytes of one connection, written down so that two readings can be compared.

use bytes::BytesMut;
use http::{HeaderMap, Method};
use proxy::h1::body::{Decoder, Step};
use proxy::h1::head::{Framing, HeadReader, Limits};

pub(crate) const LIMITS: Limits = Limits {
    head_bytes: 16 * 1024,
    fields: 100,
    field_bytes: 8 * 1024,
    http10: false,
};

/// Who reads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    Server,
    /// That has asked with GET.
    Client,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Transcript {
    pub(crate) messages: Vec<Message>,
    /// Why reading ended before the bytes did.
    pub(crate) refused: Option<&'static str>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// Method and target, or the status.
    pub(crate) start: String,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
    /// Whether the end of the body was seen.
    pub(crate) is_complete: bool,
}

/// Our reading of what comes in `pieces` until the peer closes.
pub(crate) fn ours<'a>(side: Side, pieces: impl IntoIterator<Item = &'a [u8]>) -> Transcript {
    let mut reading = Reading {
        side,
        transcript: Transcript::default(),
        reader: HeadReader::new(),
        body: None,
        keep_alive: true,
    };
    let mut input = BytesMut::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        match reading.go_on(&mut input) {
            Ok(()) if reading.keep_alive || reading.body.is_some() => {}
            Ok(()) => return reading.transcript,
            Err(reason) => {
                reading.transcript.refused = Some(reason);
                return reading.transcript;
            }
        }
    }
    let ended = reading.body.as_mut().map(Decoder::eof);
    if let (Some(Ok(())), Some(last)) = (ended, reading.transcript.messages.last_mut()) {
        last.is_complete = true;
    }
    reading.transcript
}

struct Reading {
    side: Side,
    transcript: Transcript,
    reader: HeadReader,
    body: Option<Decoder>,
    keep_alive: bool,
}

impl Reading {
    /// Reads all that can be read.
    fn go_on(&mut self, input: &mut BytesMut) -> Result<(), &'static str> {
        loop {
            let Some(body) = &mut self.body else {
                if !self.keep_alive || !self.head(input)? {
                    return Ok(());
                }
                continue;
            };
            let last = self.transcript.messages.last_mut().expect("a head");
            match body.next(input).map_err(|error| error.reason())? {
                Step::More => return Ok(()),
                Step::Data(data) => last.body.extend_from_slice(&data),
                Step::Trailers(trailers) => last.trailers = trailers,
                Step::End => {
                    last.is_complete = true;
                    self.body = None;
                }
            }
        }
    }

    /// Reads a head; answers whether it was there.
    fn head(&mut self, input: &mut BytesMut) -> Result<bool, &'static str> {
        let reader = &mut self.reader;
        let (start, fields, framing): (_, _, Framing) = match self.side {
            Side::Server => {
                let head = reader.request(input, &LIMITS).map_err(|e| e.reason())?;
                let Some(head) = head else { return Ok(false) };
                self.keep_alive = head.keep_alive;
                let start = format!("{} {}", head.parts.method, head.parts.uri);
                (start, head.parts.headers, head.body)
            }
            Side::Client => {
                let head = reader.response(input, &Method::GET, &LIMITS);
                let Some(head) = head.map_err(|e| e.reason())? else {
                    return Ok(false);
                };
                self.keep_alive = head.keep_alive;
                (head.parts.status.to_string(), head.parts.headers, head.body)
            }
        };
        self.body = Some(Decoder::new(framing, &LIMITS));
        self.transcript.messages.push(Message {
            start,
            fields,
            ..Message::default()
        });
        Ok(true)
    }
}
