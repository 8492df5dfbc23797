//! `validity`: from when until when a grant holds.

use std::time::{Duration, SystemTime};

use crate::yaml::{self, Node, Problems};

/// Grants are meant to end; two weeks is what a renewal takes when people are on holiday.
const WARN_BEFORE: Duration = Duration::from_secs(14 * 86_400);

/// When a grant holds. Both ends belong to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Validity {
    pub(crate) not_before: Option<SystemTime>,
    /// `None` was written out as `never`, with a reason.
    pub(crate) not_after: Option<SystemTime>,
    pub(crate) warn_before: Duration,
}

impl Validity {
    /// Both ends belong to it.
    pub(crate) fn contains(&self, now: SystemTime) -> bool {
        self.not_before.is_none_or(|start| start <= now)
            && self.not_after.is_none_or(|end| now <= end)
    }
}

pub(super) fn validity(node: &Node, problems: &Problems) -> Option<Validity> {
    yaml::map(node, problems, |map| {
        let not_before = map.optional("notBefore", yaml::timestamp);
        let not_after = map.required("notAfter", |node, problems| {
            if node.is_word("never") {
                Some(None)
            } else {
                yaml::timestamp(node, problems).map(Some)
            }
        });
        let because = map.optional("because", yaml::text);
        let warn_before = map.optional("warnBefore", yaml::duration);
        let not_after = not_after?;
        if not_after.is_none() && because.is_none() {
            problems
                .push(node.problem("`notAfter: never` needs a reason: expected the key `because`"));
        }
        if let (Some(start), Some(end)) = (not_before, not_after)
            && start >= end
        {
            problems.push(node.problem("expected notBefore to be earlier than notAfter"));
        }
        Some(Validity {
            not_before,
            not_after,
            warn_before: warn_before.unwrap_or(WARN_BEFORE),
        })
    })
}
