//! First lines: the parts that everything else hangs on.

use super::HeadError;
use bytes::Bytes;
use http::header::HeaderValue;
use http::{Method, StatusCode, Uri, Version};
use policy::target::{MAX_TARGET_BYTES, Reject};
use std::ops::Range;

/// Longest method read; the longest that is registered has 17 bytes.
const MAX_METHOD_BYTES: usize = 32;

/// `HTTP/1.1`.
const VERSION_BYTES: usize = 8;

/// `method SP target SP HTTP/1.1` (RFC 9112, section 3).
pub(super) struct RequestLine {
    pub(super) method: Method,
    /// HTTP/1.1 or 1.0.
    pub(super) version: Version,
    /// Where the target is; see [`uri`].
    pub(super) target: Range<usize>,
}

impl RequestLine {
    pub(super) const MAX_BYTES: usize = MAX_METHOD_BYTES + 1 + MAX_TARGET_BYTES + 1 + VERSION_BYTES;

    pub(super) fn read(line: &[u8]) -> Result<Self, HeadError> {
        let line = Self::read_with_old(line)?;
        if line.version == Version::HTTP_10 {
            return Err(HeadError::Version);
        }
        Ok(line)
    }

    /// The same of HTTP/1.0, too.
    pub(super) fn read_with_old(line: &[u8]) -> Result<Self, HeadError> {
        let method = memchr::memchr(b' ', line).ok_or(HeadError::RequestLine)?;
        if method > MAX_METHOD_BYTES {
            return Err(HeadError::RequestLine);
        }
        let start = method + 1;
        let target = memchr::memchr(b' ', &line[start..]).unwrap_or(line.len() - start);
        if target > MAX_TARGET_BYTES {
            return Err(Reject::TooLong.into());
        }
        let end = start + target;
        let version = line.get(end + 1..).ok_or(HeadError::RequestLine)?;
        if target == 0 || !is_version(version) {
            return Err(HeadError::RequestLine);
        }
        let method = Method::from_bytes(&line[..method]).map_err(|_| HeadError::RequestLine)?;
        let version = match version {
            b"HTTP/1.1" => Version::HTTP_11,
            b"HTTP/1.0" => Version::HTTP_10,
            _ => return Err(HeadError::Version),
        };
        // A fragment is no part of a target (RFC 9112, section 3.2); what reads the target next would cut it off.
        if line[start..end]
            .iter()
            .any(|byte| !byte.is_ascii_graphic() || *byte == b'#')
        {
            return Err(Reject::BadCharacter.into());
        }
        Ok(Self {
            method,
            version,
            target: start..end,
        })
    }
}

/// `HTTP/` digit `.` digit (RFC 9112, section 2.3), whichever version that is.
fn is_version(text: &[u8]) -> bool {
    matches!(text, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// The target in whichever form it has; which forms are served is decided later.
pub(super) fn uri(target: Bytes) -> Result<Uri, HeadError> {
    let reject = if target.starts_with(b"/") {
        Reject::BadCharacter
    } else {
        Reject::NotAbsolute
    };
    Uri::from_maybe_shared(target).map_err(|_| reject.into())
}

/// `version SP status [ SP [ reason ] ]` (RFC 9112, section 4). Servers that leave out the reason leave out its space too.
pub(super) struct StatusLine {
    pub(super) version: Version,
    pub(super) status: StatusCode,
}

impl StatusLine {
    /// Nobody needs a longer reason phrase.
    pub(super) const MAX_BYTES: usize = 1024;

    pub(super) fn read(line: &[u8]) -> Result<Self, HeadError> {
        let (version, rest) = line
            .split_at_checked(VERSION_BYTES)
            .ok_or(HeadError::StatusLine)?;
        let version = match version {
            b"HTTP/1.1" => Version::HTTP_11,
            b"HTTP/1.0" => Version::HTTP_10,
            other if is_version(other) => return Err(HeadError::Version),
            _ => return Err(HeadError::StatusLine),
        };
        let (status, reason) = match rest {
            [b' ', status @ ..] if status.len() >= 3 => status.split_at(3),
            _ => return Err(HeadError::StatusLine),
        };
        let is_reason = match reason {
            [] => true,
            [b' ', reason @ ..] => HeaderValue::from_bytes(reason).is_ok(),
            _ => false,
        };
        let status = StatusCode::from_bytes(status).map_err(|_| HeadError::StatusLine)?;
        if is_reason && line.len() <= Self::MAX_BYTES {
            Ok(Self { version, status })
        } else {
            Err(HeadError::StatusLine)
        }
    }
}
