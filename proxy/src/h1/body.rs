//! Bodies: where one ends, and what it carries (RFC 9112, sections 6 and 7).

use super::field::Block;
use super::head::{Framing, HeadError, Limits};
use super::line::{LineError, find_end};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};

/// Longest line with a chunk's size, without its CRLF: eight digits, and extensions that nobody uses.
const MAX_SIZE_LINE_BYTES: usize = 256;

/// Digits of a size: as many as a `u32` has, since some readers cut off what is above them and would end the chunk in
/// another place. Nobody sends 4 GiB in one chunk.
const MAX_SIZE_DIGITS: usize = 8;

/// Bytes that chunking may cost beyond its fair share, as in Go's net/http: 16 and twice the data are fair for a chunk.
const MAX_EXCESS_BYTES: u64 = 16 * 1024;

/// What comes next in a body.
#[derive(Debug)]
pub enum Step {
    /// More bytes are needed.
    More,
    /// Some of the body, never empty; a slice of the input.
    Data(Bytes),
    /// The fields behind a chunked body, which ends with them; not given if there are none.
    Trailers(HeaderMap),
    /// The body has ended; what is left of the input belongs to the next message.
    End,
}

/// Why bytes are not the body that was announced. The texts are for the caller and the log alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the size of a chunk is not a plain hexadecimal number")]
    ChunkSize,
    #[error("a chunk extension has a character that is not allowed there, or is too long")]
    ChunkExtension,
    #[error("the data of a chunk do not end in CRLF")]
    ChunkEnd,
    #[error("a line of a chunked body does not end in CRLF")]
    ChunkLine,
    #[error("the chunks carry too little data")]
    ChunkOverhead,
    #[error("trailers: {0}")]
    Trailers(HeadError),
    #[error("the connection ended before the body")]
    Incomplete,
}

impl BodyError {
    /// A word from a closed set, for logs and as a metric label.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ChunkSize => "bad_chunk_size",
            Self::ChunkExtension => "bad_chunk_extension",
            Self::ChunkEnd => "bad_chunk_end",
            Self::ChunkLine => "bad_chunk_line",
            Self::ChunkOverhead => "chunk_overhead",
            Self::Trailers(error) => error.reason(),
            Self::Incomplete => "incomplete_body",
        }
    }

    /// The HTTP status that says it.
    pub fn status(self) -> u16 {
        match self {
            Self::Trailers(error) => error.status(),
            _ => 400,
        }
    }
}

/// Takes one body off a connection's input, in pieces as they come.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    limits: Limits,
    excess: u64,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Bytes that are left of the body.
    Length(u64),
    UntilClose,
    /// How much of the line with the size was looked at.
    Size(usize),
    /// Bytes that are left of the chunk.
    Chunk(u64),
    ChunkEnd,
    Trailers(Block),
    End,
}

impl Decoder {
    /// A decoder at the start of a body; `limits` are for its trailers.
    pub fn new(framing: Framing, limits: &Limits) -> Self {
        Self {
            state: match framing {
                Framing::Empty | Framing::Length(0) => State::End,
                Framing::Length(length) => State::Length(length),
                Framing::Chunked => State::Size(0),
                Framing::UntilClose => State::UntilClose,
            },
            limits: *limits,
            excess: 0,
        }
    }

    /// Takes the next step off the front of `input`. Between two calls, bytes may only be added to its end. After an error
    /// the decoder is of no use.
    ///
    /// # Errors
    /// When a chunked body is malformed, spends too many bytes on other things than data, or has bad trailers.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Step, BodyError> {
        loop {
            match &mut self.state {
                State::End => return Ok(Step::End),
                State::UntilClose => return Ok(take(input, u64::MAX)),
                State::Length(left) => {
                    let step = take(input, *left);
                    *left -= data_bytes(&step);
                    if *left == 0 {
                        self.state = State::End;
                    }
                    return Ok(step);
                }
                State::Size(scanned) => {
                    let Some(end) =
                        find_end(input, 0, scanned, MAX_SIZE_LINE_BYTES).map_err(chunk_line)?
                    else {
                        return Ok(Step::More);
                    };
                    let line = input.split_to(end + 2);
                    let size = chunk_size(&line[..end])?;
                    self.spend(end, size)?;
                    self.state = match size {
                        0 => State::Trailers(Block::default()),
                        size => State::Chunk(size),
                    };
                }
                State::Chunk(left) => {
                    let step = take(input, *left);
                    *left -= data_bytes(&step);
                    if *left == 0 {
                        self.state = State::ChunkEnd;
                    }
                    return Ok(step);
                }
                State::ChunkEnd => match **input {
                    [] | [b'\r'] => return Ok(Step::More),
                    [b'\r', b'\n', ..] => {
                        let _ = input.split_to(2);
                        self.state = State::Size(0);
                    }
                    _ => return Err(BodyError::ChunkEnd),
                },
                State::Trailers(block) => {
                    let end = block
                        .end(input, &self.limits)
                        .map_err(BodyError::Trailers)?;
                    let Some(end) = end else {
                        return Ok(Step::More);
                    };
                    let bytes = input.split_to(end).freeze();
                    let trailers = block.read(&bytes).map_err(BodyError::Trailers)?;
                    // They come too late to say where the body ended (RFC 9110, section 6.5.1).
                    if trailers.contains_key(CONTENT_LENGTH)
                        || trailers.contains_key(TRANSFER_ENCODING)
                    {
                        return Err(BodyError::Trailers(HeadError::Framing));
                    }
                    self.state = State::End;
                    if !trailers.is_empty() {
                        return Ok(Step::Trailers(trailers));
                    }
                }
            }
        }
    }

    /// Whether all of the body was given out: the next step is [`Step::End`], whatever the input.
    pub fn is_end(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// The peer has closed, and all input was taken.
    ///
    /// # Errors
    /// [`BodyError::Incomplete`] unless the body has ended, or ends here.
    pub fn eof(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::End | State::UntilClose => {
                self.state = State::End;
                Ok(())
            }
            _ => Err(BodyError::Incomplete),
        }
    }

    /// Bytes that are left of the body, if that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::End => Some(0),
            _ => None,
        }
    }

    /// Counts what a chunk costs against what it carries.
    fn spend(&mut self, line: usize, size: u64) -> Result<(), BodyError> {
        // The line is bounded, hence it fits.
        let cost = line as u64 + 4;
        let fair = size.saturating_mul(2).saturating_add(16);
        self.excess = (self.excess + cost).saturating_sub(fair);
        if self.excess > MAX_EXCESS_BYTES {
            return Err(BodyError::ChunkOverhead);
        }
        Ok(())
    }
}

/// At most `left` bytes of what is there.
fn take(input: &mut BytesMut, left: u64) -> Step {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
    if length == 0 {
        return Step::More;
    }
    let data = if length == input.len() {
        // With its memory: an empty rest would keep all of it for as long as nothing more is read.
        std::mem::take(input)
    } else {
        input.split_to(length)
    };
    Step::Data(data.freeze())
}

fn data_bytes(step: &Step) -> u64 {
    match step {
        Step::Data(data) => data.len() as u64,
        _ => 0,
    }
}

fn chunk_line(error: LineError) -> BodyError {
    match error {
        LineError::BareCr | LineError::BareLf => BodyError::ChunkLine,
        LineError::TooLong => BodyError::ChunkExtension,
    }
}

/// `size [ ";" extensions ]`; extensions are dropped. No white space, sign or prefix: servers differ in what they skip.
fn chunk_size(line: &[u8]) -> Result<u64, BodyError> {
    let end = memchr::memchr(b';', line).unwrap_or(line.len());
    let (digits, extensions) = line.split_at(end);
    if digits.is_empty()
        || digits.len() > MAX_SIZE_DIGITS
        || !digits.iter().all(u8::is_ascii_hexdigit)
    {
        return Err(BodyError::ChunkSize);
    }
    let is_text = |byte: &u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t');
    if !extensions.iter().all(is_text) {
        return Err(BodyError::ChunkExtension);
    }
    let digits = str::from_utf8(digits).map_err(|_| BodyError::ChunkSize)?;
    u64::from_str_radix(digits, 16).map_err(|_| BodyError::ChunkSize)
}

#[cfg(test)]
mod tests;
