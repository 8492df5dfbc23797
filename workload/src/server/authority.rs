//! gRPC's C core (Python, C++, Ruby, PHP) names a Unix socket by its escaped path in `:authority`, such as `run%2Fapi.sock`.
//!
//! That is no authority by RFC 3986 as the `http` crate reads it, and the request would be refused before any code of ours
//! sees it. So each `%` in the value of an `:authority` is made a `-` on the way in: nothing here is decided by it, and as the
//! length stays the same, neither frames nor the state of HPACK (RFC 7541) change. Only the outline of HPACK is
//! read, byte by byte; what is not well-formed goes on as it is, to the one who refuses it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection whose requests have authorities that can be read.
#[derive(Debug)]
pub(super) struct Readable<S> {
    stream: S,
    reader: Reader,
}

impl<S> Readable<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            reader: Reader::default(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Readable<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.reader.read(&mut buffer.filled_mut()[before..]);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Readable<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n` (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;

/// What of a connection comes next (RFC 9113 section 4.1).
#[derive(Debug)]
enum Next {
    /// This many bytes that are none of our business, then a frame.
    Passed(usize),
    /// The head of a frame, of which this much has come.
    Head([u8; FRAME_HEAD_BYTES], usize),
    /// The length of the padding of a HEADERS frame, which has this many bytes and these flags.
    Padding(usize, u8),
    /// In a frame, fields: `before` them something else, `after` them padding.
    Fields {
        before: usize,
        fields: usize,
        after: usize,
    },
}

#[derive(Debug)]
struct Reader {
    next: Next,
    fields: Fields,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            next: Next::Passed(PREFACE_BYTES),
            fields: Fields::Begin,
        }
    }
}

impl Reader {
    fn read(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let taken = self.take(bytes);
            bytes = &mut bytes[taken..];
        }
    }

    /// Reads some of `bytes`, at least one, and says how many.
    fn take(&mut self, bytes: &mut [u8]) -> usize {
        match &mut self.next {
            Next::Passed(left) => {
                let taken = bytes.len().min(*left);
                *left -= taken;
                if *left == 0 {
                    self.next = Next::Head([0; FRAME_HEAD_BYTES], 0);
                }
                taken
            }
            Next::Head(head, have) => {
                head[*have] = bytes[0];
                *have += 1;
                if *have == FRAME_HEAD_BYTES {
                    self.next = after(*head);
                    self.begin();
                }
                1
            }
            Next::Padding(length, flags) => {
                let (length, after) = (length.saturating_sub(1), usize::from(bytes[0]));
                self.next = fields(length, after, *flags);
                self.begin();
                1
            }
            Next::Fields { before, .. } if *before > 0 => {
                let taken = bytes.len().min(*before);
                *before -= taken;
                self.begin();
                taken
            }
            Next::Fields { fields, after, .. } => {
                let taken = bytes.len().min(*fields);
                for byte in &mut bytes[..taken] {
                    self.fields.read(byte);
                }
                *fields -= taken;
                if *fields == 0 {
                    self.next = Next::Passed(*after);
                    self.begin();
                }
                taken
            }
        }
    }

    /// Goes on from what has no bytes left.
    fn begin(&mut self) {
        if let Next::Fields {
            before: 0,
            fields: 0,
            after,
        } = self.next
        {
            self.next = Next::Passed(after);
        }
        if matches!(self.next, Next::Passed(0)) {
            self.next = Next::Head([0; FRAME_HEAD_BYTES], 0);
        }
    }
}

/// What follows the head of a frame.
fn after(head: [u8; FRAME_HEAD_BYTES]) -> Next {
    let [a, b, c, kind, flags, ..] = head;
    let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
    match kind {
        HEADERS if flags & PADDED != 0 && length > 0 => Next::Padding(length, flags),
        HEADERS => fields(length, 0, flags),
        // It goes on where the frame before ended.
        CONTINUATION => fields(length, 0, 0),
        _ => Next::Passed(length),
    }
}

fn fields(length: usize, padding: usize, flags: u8) -> Next {
    let before = if flags & PRIORITY != 0 {
        PRIORITY_BYTES
    } else {
        0
    };
    let before = before.min(length);
    let after = padding.min(length - before);
    Next::Fields {
        before,
        fields: length - before - after,
        after,
    }
}

const AUTHORITY: &[u8] = b":authority";
/// Of `:authority` in the static table (RFC 7541 appendix A).
const AUTHORITY_INDEX: usize = 1;

/// Where in a field block the next byte is (RFC 7541 section 6).
#[derive(Debug, Clone, Copy)]
enum Fields {
    /// A field begins.
    Begin,
    /// In an integer that is not looked at.
    Number,
    /// In an integer that is the index of a literal field's name.
    Index { value: usize, shift: u32 },
    /// A literal name begins.
    Name,
    /// In the length of a name or a value.
    Length {
        of: Text,
        is_huffman: bool,
        value: usize,
        shift: u32,
    },
    /// In a name of which `left` bytes are to come, and which is `:authority` so far if `matched` says where.
    InName { left: usize, matched: Option<usize> },
    /// A value begins.
    Value { is_authority: bool },
    /// In a value.
    InValue { left: usize, is_wanted: bool },
}

#[derive(Debug, Clone, Copy)]
enum Text {
    Name,
    Value { is_authority: bool },
}

impl Fields {
    fn read(&mut self, byte: &mut u8) {
        *self = match *self {
            Self::Begin => Self::of(*byte),
            Self::Number if *byte & 0x80 == 0 => Self::Begin,
            Self::Number => Self::Number,
            Self::Index { value, shift } => {
                let value = add(value, shift, *byte);
                match *byte & 0x80 {
                    0 => Self::Value {
                        is_authority: value == AUTHORITY_INDEX,
                    },
                    _ => Self::Index {
                        value,
                        shift: shift + 7,
                    },
                }
            }
            Self::Name => Self::length(Text::Name, *byte),
            Self::Value { is_authority } => Self::length(Text::Value { is_authority }, *byte),
            Self::Length {
                of,
                is_huffman,
                value,
                shift,
            } => {
                let value = add(value, shift, *byte);
                match *byte & 0x80 {
                    0 => Self::text(of, is_huffman, value),
                    _ => Self::Length {
                        of,
                        is_huffman,
                        value,
                        shift: shift + 7,
                    },
                }
            }
            Self::InName { left, matched } => {
                let matched = matched.filter(|at| AUTHORITY.get(*at) == Some(byte));
                let matched = matched.map(|at| at + 1);
                match left {
                    0 | 1 => Self::Value {
                        is_authority: matched == Some(AUTHORITY.len()),
                    },
                    _ => Self::InName {
                        left: left - 1,
                        matched,
                    },
                }
            }
            Self::InValue { left, is_wanted } => {
                if is_wanted && *byte == b'%' {
                    *byte = b'-';
                }
                match left {
                    0 | 1 => Self::Begin,
                    _ => Self::InValue {
                        left: left - 1,
                        is_wanted,
                    },
                }
            }
        };
    }

    /// By the first byte of a field: which kind, and the beginning of its first integer.
    fn of(byte: u8) -> Self {
        let (mask, is_literal) = match byte {
            0x80.. => (0x7f, false),
            0x40.. => (0x3f, true),
            0x20.. => (0x1f, false),
            _ => (0x0f, true),
        };
        match (byte & mask, is_literal) {
            (0, true) => Self::Name,
            (index, true) if index == mask => Self::Index {
                value: usize::from(mask),
                shift: 0,
            },
            (index, true) => Self::Value {
                is_authority: usize::from(index) == AUTHORITY_INDEX,
            },
            (value, false) if value == mask => Self::Number,
            (_, false) => Self::Begin,
        }
    }

    fn length(of: Text, byte: u8) -> Self {
        let (is_huffman, value) = (byte & 0x80 != 0, usize::from(byte & 0x7f));
        match value {
            0x7f => Self::Length {
                of,
                is_huffman,
                value,
                shift: 0,
            },
            _ => Self::text(of, is_huffman, value),
        }
    }

    fn text(of: Text, is_huffman: bool, length: usize) -> Self {
        match (of, length) {
            (Text::Name, 0) => Self::Value {
                is_authority: false,
            },
            (Text::Name, left) => Self::InName {
                left,
                matched: (!is_huffman).then_some(0),
            },
            (Text::Value { .. }, 0) => Self::Begin,
            (Text::Value { is_authority }, left) => Self::InValue {
                left,
                is_wanted: is_authority && !is_huffman,
            },
        }
    }
}

/// One more byte of an integer (RFC 7541 section 5.1). Absurd ones end up wrong, and are refused by who decodes them.
fn add(value: usize, shift: u32, byte: u8) -> usize {
    let more = usize::from(byte & 0x7f).checked_shl(shift);
    value.saturating_add(more.unwrap_or_default())
}

#[cfg(test)]
mod tests;
