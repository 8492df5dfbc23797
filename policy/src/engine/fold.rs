//! The wide reading of a path segment, for guards.
//!
//! Servers differ in what they take for the same path. A guard has to hold for all of them, so its own literals and the
//! segments of a request are compared after everything that some server is known to undo was undone.

use unicode_normalization::UnicodeNormalization;

/// Longest folded segment that can be compared, in bytes. Guard literals are shorter, so a longer segment is equal to
/// none of them, and folding one never needs the heap.
pub(crate) const MAX_FOLDED_BYTES: usize = 255;

/// A folded segment.
pub(crate) struct Folded {
    bytes: [u8; MAX_FOLDED_BYTES],
    /// Without the dots and spaces that are dropped when nothing follows them.
    len: usize,
    overflow: bool,
}

impl Folded {
    /// Percent-decodes, takes the compatibility form (NFKC), folds case, and drops `;parameters` and trailing dots and
    /// spaces.
    pub(crate) fn of(segment: &str) -> Self {
        let mut folded = Self {
            bytes: [0; MAX_FOLDED_BYTES],
            len: 0,
            overflow: false,
        };
        let raw = segment.as_bytes();
        if raw.iter().all(|byte| byte.is_ascii() && *byte != b'%') {
            let end = raw
                .iter()
                .position(|byte| *byte == b';')
                .unwrap_or(raw.len());
            folded.collect(
                raw[..end]
                    .iter()
                    .map(|byte| char::from(byte.to_ascii_lowercase())),
            );
        } else {
            // Upper case first: `ı` and `ſ` meet `i` and `s` only on that way.
            let wide = Chars { bytes: raw }
                .nfkc()
                .flat_map(char::to_uppercase)
                .flat_map(char::to_lowercase);
            folded.collect(wide.take_while(|c| *c != ';'));
        }
        folded
    }

    fn collect(&mut self, chars: impl Iterator<Item = char>) {
        let mut end = 0;
        for c in chars {
            let dropped = c == '.' || c.is_whitespace();
            if end + c.len_utf8() > MAX_FOLDED_BYTES {
                // A tail of dots that does not fit may still be dropped.
                if dropped {
                    continue;
                }
                self.overflow = true;
                return;
            }
            c.encode_utf8(&mut self.bytes[end..]);
            end += c.len_utf8();
            if !dropped {
                self.len = end;
            }
        }
    }

    /// The folded text; `None` if it is too long to be equal to any guard literal.
    pub(crate) fn text(&self) -> Option<&str> {
        if self.overflow {
            return None;
        }
        str::from_utf8(&self.bytes[..self.len]).ok()
    }

    /// Whether nothing is left, so that some servers see no segment at all here.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0 && !self.overflow
    }
}

/// The characters of a percent-encoded text; what is no UTF-8 becomes U+FFFD.
struct Chars<'a> {
    bytes: &'a [u8],
}

impl Chars<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, used) = match self.bytes {
            [b'%', high, low, ..] => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, 3),
                _ => (b'%', 1),
            },
            [byte, ..] => (*byte, 1),
            [] => return None,
        };
        self.bytes = &self.bytes[used..];
        Some(byte)
    }
}

impl Iterator for Chars<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let first = self.byte()?;
        let len = match first {
            0..0x80 => return Some(char::from(first)),
            0xC0..0xE0 => 2,
            0xE0..0xF0 => 3,
            _ => 4,
        };
        let mut buffer = [first, 0, 0, 0];
        for slot in &mut buffer[1..len] {
            let mut ahead = Chars { bytes: self.bytes };
            match ahead.byte() {
                Some(byte @ 0x80..0xC0) => {
                    *slot = byte;
                    self.bytes = ahead.bytes;
                }
                _ => return Some(char::REPLACEMENT_CHARACTER),
            }
        }
        let decoded = str::from_utf8(&buffer[..len])
            .ok()
            .and_then(|text| text.chars().next());
        Some(decoded.unwrap_or(char::REPLACEMENT_CHARACTER))
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_undoes_what_servers_undo() {
        for (segment, expected) in [
            ("admin", "admin"),
            ("ADMIN", "admin"),
            ("admin..", "admin"),
            ("admin. .", "admin"),
            ("admin%20", "admin"),
            ("admin;x=1", "admin"),
            ("admin.;x", "admin"),
            ("%61dmin", "admin"),
            ("%EF%BC%A1dmin", "admin"),
            ("adm%C4%B1n", "admin"),
            ("%C3%89", "é"),
            ("v1.2", "v1.2"),
            (";x", ""),
            ("%FF%41", "\u{fffd}a"),
            ("%zz", "%zz"),
        ] {
            assert_eq!(Folded::of(segment).text(), Some(expected), "{segment}");
        }
    }

    #[test]
    fn a_long_tail_that_is_dropped_does_not_hide_the_name() {
        let dots = format!("admin{}", ".".repeat(1000));
        assert_eq!(Folded::of(&dots).text(), Some("admin"));
        let parameters = format!("admin;{}", "x".repeat(1000));
        assert_eq!(Folded::of(&parameters).text(), Some("admin"));
        assert_eq!(Folded::of(&"a".repeat(1000)).text(), None);
    }
}
