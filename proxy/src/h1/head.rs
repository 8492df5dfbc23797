//! Heads of requests and responses: first line, fields, and what they say about the body and the connection.
//!
//! [`HeadReader`] is fed whatever has arrived and gives the head once it is there. The first line is judged at its CRLF,
//! lines and limits as they arrive, the fields at the end of the head.

mod first_line;
mod said;

use super::field::Block;
use super::line::{LineError, find_end};
use bytes::{Buf, Bytes, BytesMut};
use first_line::{RequestLine, StatusLine, uri};
use http::header::HeaderMap;
use http::{Method, StatusCode, Version};
use policy::target::Reject;
use said::{Expectations, Said};

/// How much of a head is read at most. The same limits hold for trailers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole head, from the first line to the empty one.
    pub head_bytes: usize,
    /// Number of fields.
    pub fields: usize,
    /// Bytes of one field line, without its CRLF.
    pub field_bytes: usize,
    /// Whether requests of HTTP/1.0 are read, too.
    pub http10: bool,
}

/// Where the body of a message ends (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none, and no field speaks of one.
    Empty,
    /// As long as `Content-Length` says, which may be 0.
    Length(u64),
    Chunked,
    /// With the connection. Responses only.
    UntilClose,
}

/// The head of a request.
#[derive(Debug)]
pub struct RequestHead {
    /// The fields are as they came, those of the connection among them.
    pub parts: http::request::Parts,
    pub body: Framing,
    /// Whether the client takes another request on this connection.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

/// The head of a response, an interim one (1xx) included.
#[derive(Debug)]
pub struct ResponseHead {
    /// The fields are as they came, those of the connection among them.
    pub parts: http::response::Parts,
    pub body: Framing,
    /// Whether the server takes another request on this connection.
    pub keep_alive: bool,
}

/// Why bytes are not the head of a message. The texts are for the caller and the log alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("expected 'method target HTTP/1.1' with single spaces")]
    RequestLine,
    #[error("expected 'HTTP/1.1 status reason'")]
    StatusLine,
    #[error("expected HTTP/1.1")]
    Version,
    #[error(transparent)]
    Target(#[from] Reject),
    #[error("the head is too long")]
    HeadTooLong,
    #[error("a header field is too long")]
    FieldTooLong,
    #[error("there are too many header fields")]
    TooManyFields,
    #[error("a carriage return is not followed by a line feed")]
    BareCr,
    #[error("a line feed does not follow a carriage return")]
    BareLf,
    #[error("a header line starts with white space")]
    Fold,
    #[error("a header line does not start with a name and a colon")]
    FieldName,
    #[error("a header field has a character that is not allowed there")]
    FieldValue,
    #[error("Content-Length is not one plain number")]
    ContentLength,
    #[error("Transfer-Encoding is not 'chunked'")]
    TransferEncoding,
    #[error("Transfer-Encoding names a coding that is not known here")]
    TransferCoding,
    #[error("the end of the body is ambiguous")]
    Framing,
}

impl HeadError {
    /// A word from a closed set, for logs and as a metric label.
    pub fn reason(self) -> &'static str {
        match self {
            Self::RequestLine => "bad_request_line",
            Self::StatusLine => "bad_status_line",
            Self::Version => "http_version",
            Self::Target(reject) => reject.reason(),
            Self::HeadTooLong => "head_too_long",
            Self::FieldTooLong => "header_too_long",
            Self::TooManyFields => "too_many_headers",
            Self::BareCr => "bare_cr",
            Self::BareLf => "bare_lf",
            Self::Fold => "obsolete_folding",
            Self::FieldName => "bad_header_name",
            Self::FieldValue => "bad_header_value",
            Self::ContentLength => "bad_content_length",
            Self::TransferEncoding => "bad_transfer_encoding",
            Self::TransferCoding => "unknown_transfer_coding",
            Self::Framing => "ambiguous_framing",
        }
    }

    /// The HTTP status that says it.
    pub fn status(self) -> u16 {
        match self {
            Self::Target(reject) => reject.status(),
            Self::HeadTooLong | Self::FieldTooLong | Self::TooManyFields => 431,
            Self::TransferCoding => 501,
            Self::Version => 505,
            _ => 400,
        }
    }

    /// `too_long` is what a line over its limit means.
    pub(super) fn from_line(error: LineError, too_long: Self) -> Self {
        match error {
            LineError::BareCr => Self::BareCr,
            LineError::BareLf => Self::BareLf,
            LineError::TooLong => too_long,
        }
    }
}

/// Reads one head after the other from a connection's input.
///
/// Between two calls for the same head, bytes may only be added to the end of the input. It remembers how far it has
/// looked: a head that arrives byte by byte costs as much as one that comes at once. After an error it is of no use.
#[derive(Debug, Default)]
pub struct HeadReader {
    scanned: usize,
    /// What follows the first line, once that was judged.
    fields: Option<Fields>,
}

#[derive(Debug)]
struct Fields {
    /// Length of the first line, without its CRLF.
    first_line: usize,
    block: Block,
}

impl HeadReader {
    /// A reader at the start of a message.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a request head off the front of `input`; `None` if it is not all there yet, and `input` is as it was.
    ///
    /// # Errors
    /// The first thing in the order of the bytes that is wrong with the head; what is wrong with the fields comes after
    /// what is wrong with lines and limits.
    pub fn request(
        &mut self,
        input: &mut BytesMut,
        limits: &Limits,
    ) -> Result<Option<RequestHead>, HeadError> {
        let read = if limits.http10 {
            RequestLine::read_with_old
        } else {
            RequestLine::read
        };
        let Some((head, line, fields)) = self.take(input, limits, RequestLine::MAX_BYTES, read)?
        else {
            return Ok(None);
        };
        let said = Said::in_fields(&fields)?;
        let is_old = line.version == Version::HTTP_10;
        // RFC 9112, section 6.1: its version does not have this coding; whoever ignores it reads another body.
        if is_old && said.framing == Some(Framing::Chunked) {
            return Err(HeadError::Framing);
        }
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = line.method;
        parts.version = line.version;
        parts.uri = uri(head.slice(line.target))?;
        parts.headers = fields;
        Ok(Some(RequestHead {
            body: said.framing.unwrap_or(Framing::Empty),
            // What follows CONNECT is no request, whoever may take it for one (RFC 9110, section 9.3.6).
            keep_alive: !said.close && parts.method != Method::CONNECT && !is_old,
            expects_continue: said.expectations == Expectations::Continue && !is_old,
            parts,
        }))
    }

    /// Takes the head of a response to a `method` request off the front of `input`; `None` if it is not all there yet, and
    /// `input` is as it was.
    ///
    /// # Errors
    /// As for [`HeadReader::request`].
    pub fn response(
        &mut self,
        input: &mut BytesMut,
        method: &Method,
        limits: &Limits,
    ) -> Result<Option<ResponseHead>, HeadError> {
        let Some((_, line, fields)) =
            self.take(input, limits, StatusLine::MAX_BYTES, StatusLine::read)?
        else {
            return Ok(None);
        };
        let said = Said::in_fields(&fields)?;
        // RFC 9112, section 6.1: what sends a coding that its version does not have is broken.
        if line.version == Version::HTTP_10 && said.framing == Some(Framing::Chunked) {
            return Err(HeadError::Framing);
        }
        let has_no_body = *method == Method::HEAD
            || line.status.is_informational()
            || line.status == StatusCode::NO_CONTENT
            || line.status == StatusCode::NOT_MODIFIED;
        let body = match said.framing {
            _ if has_no_body => Framing::Empty,
            Some(framing) => framing,
            None => Framing::UntilClose,
        };
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = line.status;
        parts.version = line.version;
        parts.headers = fields;
        Ok(Some(ResponseHead {
            parts,
            body,
            keep_alive: line.version == Version::HTTP_11
                && !said.close
                && body != Framing::UntilClose,
        }))
    }

    /// The head, its first line read by `read`, and its fields.
    fn take<L>(
        &mut self,
        input: &mut BytesMut,
        limits: &Limits,
        line_bytes: usize,
        read: fn(&[u8]) -> Result<L, HeadError>,
    ) -> Result<Option<(Bytes, L, HeaderMap)>, HeadError> {
        let mut line = None;
        let fields = match &mut self.fields {
            Some(fields) => fields,
            None => {
                let limit = limits.head_bytes.saturating_sub(2).min(line_bytes);
                let first_line = match find_end(input, 0, &mut self.scanned, limit) {
                    Ok(Some(end)) => end,
                    Ok(None) => return Ok(None),
                    Err(LineError::TooLong) if limit < line_bytes => {
                        return Err(HeadError::HeadTooLong);
                    }
                    // Such a line cannot be good: its reading says why.
                    Err(LineError::TooLong) => {
                        return Err(read(&input[..=limit])
                            .err()
                            .unwrap_or(HeadError::HeadTooLong));
                    }
                    Err(error) => return Err(HeadError::from_line(error, HeadError::HeadTooLong)),
                };
                line = Some(read(&input[..first_line])?);
                let block = Block::starting(first_line + 2);
                self.fields.insert(Fields { first_line, block })
            }
        };
        let Some(end) = fields.block.end(input, limits)? else {
            return Ok(None);
        };
        let Fields { first_line, block } = *fields;
        *self = Self::new();
        // Copied: HTTP/2 keeps values in its table for as long as the next hop's connection lasts. A slice would keep all that
        // was read with the head, too.
        let head = Bytes::copy_from_slice(&input[..end]);
        input.advance(end);
        let line = match line {
            Some(line) => line,
            None => read(&head[..first_line])?,
        };
        let fields = block.read(&head.slice(first_line + 2..))?;
        Ok(Some((head, line, fields)))
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod response_tests;
