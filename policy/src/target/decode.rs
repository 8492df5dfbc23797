//! The slow path: a path with escapes, parameters, empty segments or leading dots.

use std::borrow::Cow;

use unicode_normalization::char::decompose_compatible;

use super::{EmptySegments, EncodedSlash, PathParams, Profile, Reject};

/// The canonical form of `path`, whose characters are known to be legal.
pub(super) fn canonical_path<'a>(path: &'a str, profile: &Profile) -> Result<Cow<'a, str>, Reject> {
    let path = decode_unreserved(path, profile)?;
    if is_decoded_twice(&path) {
        return Err(Reject::DoubleEncoding);
    }
    check_characters(&path)?;
    check_segments(&path, profile)?;
    Ok(path)
}

/// Decodes unreserved characters, upper-cases the hex digits of other escapes, refuses escapes that a later hop
/// could take for syntax.
fn decode_unreserved<'a>(path: &'a str, profile: &Profile) -> Result<Cow<'a, str>, Reject> {
    let mut out = String::new();
    // Everything before this is in `out`, unless nothing had to change so far.
    let mut copied = 0;
    for (at, _) in path.match_indices('%') {
        let escape = path.get(at..at + 3).ok_or(Reject::BadPercentEncoding)?;
        let octet = octet(escape).ok_or(Reject::BadPercentEncoding)?;
        match octet {
            b'/' if profile.encoded_slash == EncodedSlash::Reject => {
                return Err(Reject::EncodedSlash);
            }
            b'\\' => return Err(Reject::EncodedBackslash),
            0..=0x1F | 0x7F => return Err(Reject::EncodedControl),
            b'?' | b'#' | b';' => return Err(Reject::EncodedDelimiter),
            _ => {}
        }
        let unreserved = is_unreserved(octet);
        if unreserved || escape.bytes().any(|byte| byte.is_ascii_lowercase()) {
            out.reserve(path.len() - copied);
            out.push_str(&path[copied..at]);
            if unreserved {
                out.push(char::from(octet));
            } else {
                out.extend(escape.chars().map(|c| c.to_ascii_uppercase()));
            }
            copied = at + 3;
        }
    }
    if copied == 0 {
        return Ok(Cow::Borrowed(path));
    }
    out.push_str(&path[copied..]);
    Ok(Cow::Owned(out))
}

/// Whether a second decoding of a canonical path would find another escape. Judged on the canonical form, where
/// `%25%32%65` reads `%252e`.
fn is_decoded_twice(path: &str) -> bool {
    path.match_indices("%25").any(|(at, _)| {
        let next = path.as_bytes().get(at + 3..at + 5);
        next.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// The octets outside ASCII are UTF-8, and none of the characters they make turns into syntax.
fn check_characters(path: &str) -> Result<(), Reject> {
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (c, after) = unescape(&rest[at..])?;
        if is_compat_delimiter(c) {
            return Err(Reject::CompatDelimiter);
        }
        rest = after;
    }
    Ok(())
}

fn check_segments(path: &str, profile: &Profile) -> Result<(), Reject> {
    let segments = path.strip_prefix('/').unwrap_or(path);
    let mut segments = segments.split('/').peekable();
    while let Some(segment) = segments.next() {
        // A final slash is an empty last segment: legal, and it matches differently from the path without.
        if segment.is_empty() && segments.peek().is_none() {
            break;
        }
        // With opaque slashes a segment has parts, each of which some backend may see as a segment.
        for part in Parts(Some(segment)) {
            check_segment(part, profile)?;
        }
    }
    Ok(())
}

fn check_segment(segment: &str, profile: &Profile) -> Result<(), Reject> {
    let name = match segment.split_once(';') {
        None => segment,
        Some(_) if profile.path_params == PathParams::Reject => return Err(Reject::PathParameters),
        // Servlet containers drop the parameters first and then resolve dots: `..;` is `..` to them.
        Some((name, _)) => name,
    };
    if name.is_empty() && profile.empty_segments == EmptySegments::Reject {
        return Err(Reject::EmptySegment);
    }
    if !name.is_empty() && name.bytes().all(|byte| byte == b'.') {
        return Err(Reject::DotSegment);
    }
    if has_edge_space(name) || has_edge_space(segment) {
        return Err(Reject::EdgeSpace);
    }
    Ok(())
}

/// The parts of a segment between its encoded slashes.
struct Parts<'a>(Option<&'a str>);

impl<'a> Iterator for Parts<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.0?;
        let (part, after) = match rest.split_once("%2F") {
            Some((part, after)) => (part, Some(after)),
            None => (rest, None),
        };
        self.0 = after;
        Some(part)
    }
}

/// A space in a path is an escape, so that only escapes at the edges have to be looked at.
fn has_edge_space(segment: &str) -> bool {
    let first = unescape(segment).ok().map(|(c, _)| c);
    let last = (1..=4).find_map(|escapes| {
        let at = segment.len().checked_sub(3 * escapes)?;
        match unescape(segment.get(at..)?) {
            Ok((c, "")) => Some(c),
            _ => None,
        }
    });
    [first, last].into_iter().flatten().any(is_trimmed)
}

/// What some framework's `trim` removes: Unicode white space, and U+FEFF, which JavaScript counts as such.
fn is_trimmed(c: char) -> bool {
    c.is_whitespace() || c == '\u{FEFF}'
}

/// Whether the NFKC form of `c` holds a character that means something in a path.
///
/// The compatibility decomposition is enough to tell: none of these characters composes with a mark.
fn is_compat_delimiter(c: char) -> bool {
    if c.is_ascii() {
        return false;
    }
    let mut found = false;
    decompose_compatible(c, |part| {
        found |= matches!(part, '/' | '\\' | '.' | ';' | '?' | '#' | '%')
    });
    found
}

/// The character whose escapes `path` starts with, and what follows them. Only ASCII is ever written without escapes in
/// a legal path, so that the octets of one character stand side by side.
fn unescape(path: &str) -> Result<(char, &str), Reject> {
    let octet_at = |index: usize| path.get(3 * index..3 * index + 3).and_then(octet);
    let first = octet_at(0).ok_or(Reject::BadPercentEncoding)?;
    let len = match first {
        0..=0x7F => return Ok((char::from(first), &path[3..])),
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => return Err(Reject::InvalidUtf8),
    };
    let mut octets = [first, 0, 0, 0];
    for (index, slot) in octets.iter_mut().enumerate().take(len).skip(1) {
        *slot = octet_at(index).ok_or(Reject::InvalidUtf8)?;
    }
    let decoded = str::from_utf8(&octets[..len]).ok();
    let c = decoded.and_then(|text| text.chars().next());
    Ok((c.ok_or(Reject::InvalidUtf8)?, &path[3 * len..]))
}

/// The value of an escape such as `%7E`.
fn octet(escape: &str) -> Option<u8> {
    let digits = escape.strip_prefix('%')?;
    // `from_str_radix` would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// RFC 3986, section 2.3.
fn is_unreserved(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~')
}
