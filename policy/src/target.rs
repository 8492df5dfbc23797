//! The one canonicalisation of request targets.
//!
//! The proxy, `policy explain` and the inline tests all read a target through this module, so that what was
//! decided is what is forwarded. The rule is *reject rather than repair* (POLICY.md, section 4): unreserved
//! characters are percent-decoded once, other escapes are kept with upper-case hex digits (RFC 3986, sections
//! 6.2.2.1 and 6.2.2.2), and whatever two servers might read differently is refused.
//!
//! Deliberately not here: CONNECT's authority-form, and the folding that guards apply to a canonical path. Host and
//! `:authority` are read in [`host`].

use std::borrow::Cow;

use crate::pattern::is_token;

mod decode;
pub mod host;

/// Longest request target read, in bytes: RFC 9112, section 3, asks for 8000 at least.
pub const MAX_TARGET_BYTES: usize = 8192;

/// What a callee's port takes beyond the strict profile; the default is strict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Profile {
    pub encoded_slash: EncodedSlash,
    pub path_params: PathParams,
    pub empty_segments: EmptySegments,
}

/// What `%2F` in a path means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EncodedSlash {
    #[default]
    Reject,
    /// An opaque octet inside one segment. The parts around it still may not be empty or dots.
    Opaque,
}

/// What `;` in a path means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PathParams {
    #[default]
    Reject,
    /// An ordinary character. What stands before it still may not be empty or dots.
    Literal,
}

/// What `//` in a path means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EmptySegments {
    #[default]
    Reject,
    /// A segment like any other, without text.
    Literal,
}

/// A request target in its canonical form: reading it again gives the same value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Starts with `/`, ASCII only. Borrowed from the request when it was canonical already.
    pub path: Cow<'a, str>,
    /// What follows the first `?`, byte for byte; free of controls, spaces and `#`.
    pub query: Option<&'a str>,
    /// The authority of an absolute-form target, as sent; the caller compares it with Host (see [`host::agree`]).
    pub authority: Option<&'a str>,
}

/// Why a method, target or host was not read. The texts are for the caller and the log alike: they name no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reject {
    #[error("CONNECT is not supported")]
    Connect,
    #[error("TRACE is not supported")]
    Trace,
    #[error("method is not a token, or has lower-case letters")]
    Method,
    #[error("request target is longer than {MAX_TARGET_BYTES} bytes")]
    TooLong,
    /// Also `*`: it names no path, so that no grant can open it.
    #[error("request target does not start with '/'")]
    NotAbsolute,
    #[error("request target is a URL of another scheme than http")]
    BadScheme,
    #[error("request target has a character that RFC 3986 does not allow there")]
    BadCharacter,
    #[error("'%' is not followed by two hex digits")]
    BadPercentEncoding,
    #[error("path has an encoded slash")]
    EncodedSlash,
    #[error("path has an encoded backslash")]
    EncodedBackslash,
    #[error("path has an encoded control character")]
    EncodedControl,
    #[error("path has an encoded '?', '#' or ';'")]
    EncodedDelimiter,
    #[error("path would change if it was decoded twice")]
    DoubleEncoding,
    #[error("request target is not UTF-8")]
    InvalidUtf8,
    #[error("path has a character whose compatibility form is a delimiter")]
    CompatDelimiter,
    #[error("path has an empty segment")]
    EmptySegment,
    #[error("path has ';' parameters")]
    PathParameters,
    #[error("path has a segment of dots only")]
    DotSegment,
    #[error("path has a segment that starts or ends with a space")]
    EdgeSpace,
    #[error("host is missing")]
    MissingHost,
    #[error("host is not 'name[:port]'")]
    BadHost,
    #[error("host differs from the authority of the request target")]
    HostMismatch,
}

impl Reject {
    /// The word used in logs, metrics and `policy explain`; a closed set.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Connect => "connect_not_enabled",
            Self::Trace => "trace_not_enabled",
            Self::Method => "non_canonical_method",
            Self::TooLong => "target_too_long",
            Self::NotAbsolute => "path_not_absolute",
            Self::BadScheme => "bad_scheme",
            Self::BadCharacter => "bad_target_char",
            Self::BadPercentEncoding => "bad_percent_encoding",
            Self::EncodedSlash => "encoded_slash",
            Self::EncodedBackslash => "encoded_backslash",
            Self::EncodedControl => "encoded_control",
            Self::EncodedDelimiter => "encoded_delimiter",
            Self::DoubleEncoding => "double_encoding",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::CompatDelimiter => "compat_delimiter",
            Self::EmptySegment => "empty_segment",
            Self::PathParameters => "path_parameters",
            Self::DotSegment => "dot_segment",
            Self::EdgeSpace => "segment_edge_space",
            Self::MissingHost => "missing_host",
            Self::BadHost => "bad_host",
            Self::HostMismatch => "host_authority_mismatch",
        }
    }

    /// The HTTP status that says it.
    pub fn status(self) -> u16 {
        match self {
            Self::Connect | Self::Trace => 405,
            Self::TooLong => 414,
            _ => 400,
        }
    }
}

/// Refuses methods that no policy is asked about: tunnels, echoes of the request (RFC 9110, sections 9.3.6 and 9.3.8), and
/// what is another method to us and the same to an app that folds case.
///
/// # Errors
/// [`Reject::Connect`], [`Reject::Trace`] or [`Reject::Method`].
pub fn check_method(method: &str) -> Result<(), Reject> {
    match method {
        "CONNECT" => Err(Reject::Connect),
        "TRACE" => Err(Reject::Trace),
        _ if !is_token(method) || method.bytes().any(|byte| byte.is_ascii_lowercase()) => {
            Err(Reject::Method)
        }
        _ => Ok(()),
    }
}

/// Reads the request target of an HTTP/1 request line: origin-form or absolute-form (RFC 9112, section 3.2).
///
/// Allocates only when the path was not canonical yet.
///
/// # Errors
/// The first [`Reject`] in the order: length, form, authority, characters, percent-encoding, UTF-8, segments.
///
/// ```
/// use policy::target::{Profile, Reject, canonicalise};
///
/// let target = canonicalise(b"/%7Euser/%c3%a9?q=%2F", &Profile::default()).unwrap();
/// assert_eq!(target.path, "/~user/%C3%A9");
/// assert_eq!(target.query, Some("q=%2F"));
/// assert_eq!(canonicalise(b"/a/%2e%2e/b", &Profile::default()), Err(Reject::DotSegment));
/// ```
pub fn canonicalise<'a>(target: &'a [u8], profile: &Profile) -> Result<Target<'a>, Reject> {
    if target.len() > MAX_TARGET_BYTES {
        return Err(Reject::TooLong);
    }
    if target.first() == Some(&b'/') {
        return canonicalise_path(target, profile);
    }
    let (authority, rest) = split_absolute_form(target)?;
    let target = match rest.first() {
        // RFC 9112, section 3.2.1: an empty path is sent as "/".
        None => Target {
            path: Cow::Borrowed("/"),
            query: None,
            authority: None,
        },
        Some(b'?') => Target {
            path: Cow::Borrowed("/"),
            query: Some(query(&rest[1..])?),
            authority: None,
        },
        Some(_) => canonicalise_path(rest, profile)?,
    };
    Ok(Target {
        authority: Some(authority),
        ..target
    })
}

/// Reads the `:path` of an HTTP/2 request, which is never a whole URL (RFC 9113, section 8.3.1).
///
/// # Errors
/// As for [`canonicalise`].
pub fn canonicalise_path<'a>(target: &'a [u8], profile: &Profile) -> Result<Target<'a>, Reject> {
    if target.len() > MAX_TARGET_BYTES {
        return Err(Reject::TooLong);
    }
    if target.first() != Some(&b'/') {
        return Err(Reject::NotAbsolute);
    }
    let scan = Scan::of(target)?;
    let query = match target.get(scan.path_len + 1..) {
        Some(rest) => Some(query(rest)?),
        None => None,
    };
    let path = as_ascii(&target[..scan.path_len])?;
    let path = if scan.plain {
        Cow::Borrowed(path)
    } else {
        decode::canonical_path(path, profile)?
    };
    Ok(Target {
        path,
        query,
        authority: None,
    })
}

/// One pass over the path of a target: its characters are legal, and whether it is canonical at first sight.
struct Scan {
    path_len: usize,
    /// No escapes, no `;`, no empty segment and no segment that starts with a dot: nothing is left to check.
    plain: bool,
}

impl Scan {
    fn of(target: &[u8]) -> Result<Self, Reject> {
        let mut plain = true;
        let mut segment_start = false;
        for (at, byte) in target.iter().enumerate() {
            match CLASSES[usize::from(*byte)] {
                Class::Text => segment_start = false,
                Class::Slash => {
                    plain &= !segment_start;
                    segment_start = true;
                }
                Class::Dot => {
                    plain &= !segment_start;
                    segment_start = false;
                }
                Class::Look => {
                    plain = false;
                    segment_start = false;
                }
                Class::Query => {
                    return Ok(Self {
                        path_len: at,
                        plain,
                    });
                }
                Class::Bad => return Err(Reject::BadCharacter),
            }
        }
        Ok(Self {
            path_len: target.len(),
            plain,
        })
    }
}

#[derive(Clone, Copy)]
enum Class {
    Text,
    Slash,
    Dot,
    /// `%` and `;`: legal, but the segment needs a closer look.
    Look,
    Query,
    Bad,
}

/// RFC 3986, section 3.3 (`pchar`), by octet.
static CLASSES: [Class; 256] = {
    let mut classes = [Class::Bad; 256];
    let mut byte = 0;
    while byte < 128 {
        classes[byte] = match byte as u8 {
            b'/' => Class::Slash,
            b'.' => Class::Dot,
            b'%' | b';' => Class::Look,
            b'?' => Class::Query,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => Class::Text,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@' => {
                Class::Text
            }
            _ => Class::Bad,
        };
        byte += 1;
    }
    classes
};

/// The query, as sent. It is no part of the path and no rule reads it, hence only what could end the request
/// line or hide a fragment is refused.
fn query(bytes: &[u8]) -> Result<&str, Reject> {
    if bytes
        .iter()
        .any(|byte| *byte <= b' ' || *byte == 0x7F || *byte == b'#')
    {
        return Err(Reject::BadCharacter);
    }
    str::from_utf8(bytes).map_err(|_| Reject::InvalidUtf8)
}

/// `http://authority` and the rest of the target.
///
/// Only `http`: a workload speaks plain HTTP to its sidecar, and `https` in a target names another resource
/// (RFC 9110, section 4.3.3) than the one that will be asked.
fn split_absolute_form(target: &[u8]) -> Result<(&str, &[u8]), Reject> {
    let colon = target
        .windows(3)
        .position(|window| window == b"://")
        .ok_or(Reject::NotAbsolute)?;
    let scheme = &target[..colon];
    if !is_scheme(scheme) {
        return Err(Reject::NotAbsolute);
    }
    if !scheme.eq_ignore_ascii_case(b"http") {
        return Err(Reject::BadScheme);
    }
    let rest = &target[colon + 3..];
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?'))
        .unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    host::Host::parse(authority)?;
    Ok((as_ascii(authority)?, rest))
}

/// RFC 3986, section 3.1.
fn is_scheme(scheme: &[u8]) -> bool {
    scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
}

/// `bytes` as text. The scans before let only ASCII pass, so that this does not fail; it need not be trusted.
fn as_ascii(bytes: &[u8]) -> Result<&str, Reject> {
    str::from_utf8(bytes).map_err(|_| Reject::InvalidUtf8)
}

#[cfg(test)]
mod tests;
