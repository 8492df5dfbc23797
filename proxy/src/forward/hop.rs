//! The fields of a response that end with the hop it came over.

use crate::respond::{DECISION_ID, REJECTED};
use crate::upgrade;
use http::HeaderMap;
use http::header::{CONNECTION, HeaderName, HeaderValue};
use smallvec::SmallVec;

/// Who made a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Author {
    /// Or a server outside the mesh.
    App,
    /// It has proven who it is: what it says of itself is passed on.
    Sidecar,
}

/// What only a sidecar says, and all of it begins so.
const OURS: [HeaderName; 3] = [DECISION_ID, REJECTED, upgrade::STATUS];
const OURS_BEGIN: &str = "tipstaff-";

/// Removes the fields of the hop that a response came over (RFC 9110 section 7.6.1), and what an app says in our name. Answers
/// whether the sidecar that it came from has rejected the request.
///
/// One look at each field: most responses have few, and nearly all of these are kept.
pub(super) fn strip(headers: &mut HeaderMap, author: Author) -> bool {
    let mut is_rejected = false;
    let mut removed: SmallVec<[HeaderName; 4]> = SmallVec::new();
    for (name, value) in &*headers {
        match name.as_str() {
            "connection" => {
                removed.push(CONNECTION);
                removed.extend(listed(value));
            }
            "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" => {
                removed.push(name.clone());
            }
            written if written.starts_with(OURS_BEGIN) && OURS.contains(name) => match author {
                Author::App => removed.push(name.clone()),
                Author::Sidecar => is_rejected |= name == REJECTED,
            },
            _ => {}
        }
    }
    for name in removed {
        headers.remove(name);
    }
    is_rejected
}

/// The fields that a Connection field lists, but for one that goes in any case and that most servers list.
fn listed(connection: &HeaderValue) -> impl Iterator<Item = HeaderName> {
    connection
        .as_bytes()
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.eq_ignore_ascii_case(b"keep-alive"))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of a response with these fields.
    fn left(fields: &[(&'static str, &'static str)], author: Author) -> (String, bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let is_rejected = strip(&mut headers, author);
        let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        (names.join(" "), is_rejected)
    }

    #[test]
    fn a_response_loses_the_fields_of_its_hop_and_those_it_lists() {
        let fields = [
            ("connection", "Keep-Alive, x-own"),
            ("connection", "x-other"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-own", "1"),
            ("x-own", "2"),
            ("x-other", "1"),
            ("x-kept", "1"),
        ];
        for author in [Author::App, Author::Sidecar] {
            assert_eq!(left(&fields, author), ("x-kept".to_owned(), false));
        }
    }

    #[test]
    fn only_a_sidecar_says_that_it_has_rejected() {
        let fields = [
            ("tipstaff-rejected", "1"),
            ("tipstaff-decision-id", "1"),
            ("tipstaff-status", "200"),
            ("tipstaff-else", "1"),
        ];
        let all = fields.map(|(name, _)| name).join(" ");
        assert_eq!(left(&fields, Author::Sidecar), (all, true));
        let left = left(&fields, Author::App);
        assert_eq!(left, ("tipstaff-else".to_owned(), false));
    }
}
