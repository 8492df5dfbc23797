//! How the endpoints of a service are used.

use super::{timeout, within};
use crate::config::{Breaker, Resilience};
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

/// A value, or `off`.
fn or_off<T>(
    read: impl Fn(&Node, &Problems) -> Option<T>,
) -> impl Fn(&Node, &Problems) -> Option<Option<T>> {
    move |node, problems| match node.is_word("off") {
        true => Some(None),
        false => read(node, problems).map(Some),
    }
}
