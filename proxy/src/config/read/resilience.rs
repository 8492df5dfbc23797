//! How the endpoints of a service are used.

use super::{timeout, within};
use crate::config::{Breaker, HashKey, Resilience};
use http::HeaderName;
use policy::yaml::{self, Map, Node, Problems};
use std::time::Duration;

/// The keys of a service that say so; `whole` is what all attempts of a request may take.
pub(super) fn resilience(map: &mut Map<'_>, whole: Duration) -> Resilience {
    let default = Resilience::default();
    let attempt = |node: &Node, problems: &Problems| {
        let found = timeout(node, problems)?;
        if found >= whole {
            problems.push(node.problem(format!(
                "expected less than the timeout of {whole:?}, found {found:?}"
            )));
            return None;
        }
        Some(found)
    };
    Resilience {
        try_timeout: map
            .optional("tryTimeout", or_off(attempt))
            .unwrap_or(default.try_timeout),
        slow_start: map
            .optional("slowStart", or_off(timeout))
            .unwrap_or(default.slow_start),
        max_connections: map
            .optional("maxConnections", within(1, 65_535))
            .unwrap_or(default.max_connections),
        max_pending: map
            .optional("maxPending", within(1, 1_000_000))
            .unwrap_or(default.max_pending),
        breaker: map
            .optional("breaker", or_off(breaker))
            .unwrap_or(default.breaker),
        hash: map.optional("hash", or_off(hash)).unwrap_or(default.hash),
    }
}

fn breaker(node: &Node, problems: &Problems) -> Option<Breaker> {
    let default = Breaker::default();
    yaml::map(node, problems, |map| {
        Some(Breaker {
            failures: map
                .optional("failures", within(1, 1000))
                .unwrap_or(default.failures),
            rest: map.optional("rest", timeout).unwrap_or(default.rest),
        })
    })
}

/// `path`, `identity`, or a map with the name of a header field or a cookie.
fn hash(node: &Node, problems: &Problems) -> Option<HashKey> {
    if node.is_word("path") {
        return Some(HashKey::Path);
    }
    if node.is_word("identity") {
        return Some(HashKey::Identity);
    }
    yaml::map(node, problems, |map| {
        let header = map.node_of("header");
        let named = map.node_of("cookie");
        match (header, named) {
            (Some(node), None) => {
                let name = yaml::parsed("the name of a header field")(node, problems);
                name.map(HashKey::Header)
            }
            (None, Some(node)) => cookie(node, problems).map(HashKey::Cookie),
            _ => {
                let problem = "expected path, identity, {header: NAME} or {cookie: NAME}";
                problems.push(node.problem(problem));
                None
            }
        }
    })
}

/// A token (RFC 6265 section 4.1.1), as names of header fields are, but as it is written.
fn cookie(node: &Node, problems: &Problems) -> Option<String> {
    let name = yaml::text(node, problems)?;
    if HeaderName::from_bytes(name.as_bytes()).is_err() {
        let found = yaml::shown(&name);
        problems.push(node.problem(format!("expected the name of a cookie, found {found}")));
        return None;
    }
    Some(name)
}

/// A value, or `off`.
fn or_off<T>(
    read: impl Fn(&Node, &Problems) -> Option<T>,
) -> impl Fn(&Node, &Problems) -> Option<Option<T>> {
    move |node, problems| match node.is_word("off") {
        true => Some(None),
        false => read(node, problems).map(Some),
    }
}
