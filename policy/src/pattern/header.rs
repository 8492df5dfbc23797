use std::fmt;

use crate::engine::Headers;

/// A condition on one header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeaderRule {
    /// In lower case.
    pub(crate) name: String,
    pub(crate) test: HeaderTest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HeaderTest {
    Present(bool),
    /// Equal to one of these.
    OneOf(Vec<String>),
}

impl HeaderRule {
    /// As a grant reads it: the field occurs exactly once, is not empty and has no comma, so that no two programs can
    /// take different values from it.
    pub(crate) fn holds_alone(&self, headers: &dyn Headers) -> bool {
        let mut count = 0;
        let mut matches = false;
        headers.values(&self.name, &mut |value| {
            count += 1;
            matches = !value.contains(&b',')
                && match &self.test {
                    HeaderTest::Present(_) => !value.trim_ascii().is_empty(),
                    HeaderTest::OneOf(accepted) => accepted.iter().any(|a| a.as_bytes() == value),
                };
        });
        match self.test {
            HeaderTest::Present(false) => count == 0,
            _ => count == 1 && matches,
        }
    }

    /// As a guard reads it: any value that matches is enough, also as an element of a comma-separated list, and
    /// without regard to case. An empty value counts both as present and as absent: servers differ on it.
    pub(crate) fn holds_somewhere(&self, headers: &dyn Headers) -> bool {
        let (mut occurs, mut is_filled, mut matches) = (false, false, false);
        headers.values(&self.name, &mut |value| {
            occurs = true;
            is_filled |= !value.trim_ascii().is_empty();
            if let HeaderTest::OneOf(accepted) = &self.test {
                matches |= accepted.iter().any(|a| {
                    value.eq_ignore_ascii_case(a.as_bytes())
                        || elements(value).any(|e| e.eq_ignore_ascii_case(a.as_bytes()))
                });
            }
        });
        match self.test {
            HeaderTest::Present(true) => occurs,
            HeaderTest::Present(false) => !is_filled,
            HeaderTest::OneOf(_) => matches,
        }
    }
}

impl fmt::Display for HeaderRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.test {
            HeaderTest::Present(true) => write!(f, "{} once", self.name),
            HeaderTest::Present(false) => write!(f, "no {}", self.name),
            HeaderTest::OneOf(accepted) => {
                write!(f, "{} once, with {}", self.name, accepted.join(" or "))
            }
        }
    }
}

/// The elements of a list-valued field (RFC 9110, section 5.6.1), without quotes around them.
pub(crate) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(|element| {
        let element = element.trim_ascii();
        element
            .strip_prefix(b"\"")
            .and_then(|element| element.strip_suffix(b"\""))
            .unwrap_or(element)
    })
}
