//! Field lines up to the empty line: the larger part of a head, and all of a body's trailers (RFC 9112, section 5).

use super::head::{HeadError, Limits};
use super::line::{LineError, find_end};
use super::spare;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use smallvec::{SmallVec, smallvec};

/// Fields that a head may have before reading it takes memory besides the map.
const INLINE_FIELDS: usize = 24;

/// Looks for the end of a block of field lines while it arrives.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Block {
    /// Where the line that is being looked at starts.
    line: usize,
    scanned: usize,
    fields: usize,
}

impl Block {
    /// A block that starts `at` bytes into the input.
    pub(super) fn starting(at: usize) -> Self {
        Self {
            line: at,
            scanned: at,
            fields: 0,
        }
    }

    /// Where the block ends, behind its empty line. `None`: more bytes are needed. Lines and limits are checked as they
    /// arrive; what is in the lines is [`Block::read`]'s to judge.
    pub(super) fn end(
        &mut self,
        input: &[u8],
        limits: &Limits,
    ) -> Result<Option<usize>, HeadError> {
        loop {
            // The head has to have room for this line's end at least.
            let Some(room) = limits.head_bytes.checked_sub(self.line + 2) else {
                return Err(HeadError::HeadTooLong);
            };
            match input.get(self.line) {
                Some(b' ' | b'\t') => return Err(HeadError::Fold),
                Some(b'\r' | b'\n') | None => {}
                Some(_) if self.fields == limits.fields => return Err(HeadError::TooManyFields),
                Some(_) => {}
            }
            let limit = room.min(limits.field_bytes);
            let end = match find_end(input, self.line, &mut self.scanned, limit) {
                Ok(Some(end)) => end,
                Ok(None) => return Ok(None),
                Err(LineError::TooLong) if limit < limits.field_bytes => {
                    return Err(HeadError::HeadTooLong);
                }
                Err(error) => return Err(HeadError::from_line(error, HeadError::FieldTooLong)),
            };
            let is_empty = end == self.line;
            self.line = end + 2;
            self.scanned = self.line;
            if is_empty {
                return Ok(Some(self.line));
            }
            self.fields += 1;
        }
    }

    /// Reads `block`, whose end [`Block::end`] has found. Values are slices of it.
    pub(super) fn read(self, block: &Bytes) -> Result<HeaderMap, HeadError> {
        let mut lines: SmallVec<[httparse::Header<'_>; INLINE_FIELDS]> =
            smallvec![httparse::EMPTY_HEADER; self.fields];
        let lines = match httparse::parse_headers(block, &mut lines) {
            Ok(httparse::Status::Complete((_, lines))) => lines,
            Err(httparse::Error::HeaderValue) => return Err(HeadError::FieldValue),
            // The lines were counted and are complete: what is left is a name that is none.
            Ok(httparse::Status::Partial) | Err(_) => return Err(HeadError::FieldName),
        };
        let mut fields = spare::take(lines.len()).ok_or(HeadError::TooManyFields)?;
        for line in lines {
            let name =
                HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| HeadError::FieldName)?;
            let value = HeaderValue::from_maybe_shared(block.slice_ref(line.value))
                .map_err(|_| HeadError::FieldValue)?;
            fields
                .try_append(name, value)
                .map_err(|_| HeadError::TooManyFields)?;
        }
        Ok(fields)
    }
}
