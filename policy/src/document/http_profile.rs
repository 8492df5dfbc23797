//! `kind: HttpProfile` (POLICY.md, section 4).

use super::{Document, Meta, Presence, ScopedProfile, non_empty, purpose, scope::scope};
use crate::{
    pattern::is_token,
    profile::{Cors, HttpProfile},
    target::{EmptySegments, EncodedSlash, PathParams, Profile},
    yaml::{self, Map, Node, Problems, shown},
};

pub(super) fn http_profile(map: &mut Map<'_>, meta: Meta) -> Option<Document> {
    let scope = scope(map, &meta);
    let encoded_slash = map.optional(
        "encodedSlash",
        yaml::word(&[
            ("opaque", EncodedSlash::Opaque),
            ("reject", EncodedSlash::Reject),
        ]),
    );
    let path_params = map.optional(
        "pathParams",
        yaml::word(&[
            ("literal", PathParams::Literal),
            ("reject", PathParams::Reject),
        ]),
    );
    let empty_segments = map.optional(
        "emptySegments",
        yaml::word(&[
            ("literal", EmptySegments::Literal),
            ("reject", EmptySegments::Reject),
        ]),
    );
    let upgrades = map.optional("upgrade", |node, problems| {
        non_empty(node, problems, upgrade)
    });
    let http10 = map.optional("http10", yaml::boolean);
    let cors = map.optional("cors", yaml::word(&[("preflight", Cors::Preflight)]));
    purpose(map, Presence::Optional);
    let target = Profile {
        encoded_slash: encoded_slash.unwrap_or_default(),
        path_params: path_params.unwrap_or_default(),
        empty_segments: empty_segments.unwrap_or_default(),
    };
    Some(Document::HttpProfile(ScopedProfile {
        name: meta.name,
        place: meta.place,
        scope: scope?,
        profile: HttpProfile::new(
            target,
            upgrades.unwrap_or_default(),
            http10.unwrap_or_default(),
            cors.unwrap_or_default(),
        ),
    }))
}

/// Protocols whose inside is requests again, which nobody would decide on: the way past every rule that is known as h2c
/// smuggling.
const OF_REQUESTS: [&str; 5] = ["h2c", "h2", "h3", "http", "tls"];

/// `protocol-name ["/" protocol-version]` (RFC 9110, section 7.8).
fn upgrade(node: &Node, problems: &Problems) -> Option<Box<str>> {
    let text = yaml::text(node, problems)?.to_ascii_lowercase();
    let (name, version) = match text.split_once('/') {
        Some((name, version)) => (name, Some(version)),
        None => (text.as_str(), None),
    };
    if !is_token(name) || !version.is_none_or(is_token) {
        let found = shown(&text);
        problems.push(node.problem(format!(
            "expected the name of a protocol such as websocket, found {found}"
        )));
    }
    if OF_REQUESTS.contains(&name) {
        problems.push(node.problem(format!(
            "an upgrade to `{name}` would carry requests that no rule is asked about"
        )));
    }
    Some(text.into())
}
