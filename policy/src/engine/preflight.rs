//! CORS preflights (Fetch standard, section 4.8): a browser's question whether a page may send a request.
//!
//! The app answers it; here is decided whether it gets there. Browsers send preflights without the header fields and
//! credentials of the request itself, so that no grant could be written for them.

use std::time::SystemTime;

use smallvec::SmallVec;

use super::{Attributes, Decision, Headers, Reason};
use crate::{profile::Cors, target::check_method, view::View};

impl View {
    /// As [`View::decide`] for a request **without a body that asks for no upgrade**. If the profile says `cors:
    /// preflight`, a preflight that no grant names passes too where some grant opens its path to the method that it asks
    /// about, conditions on header fields aside, and no guard denies that.
    pub fn decide_or_preflight(&self, request: &Attributes<'_>, now: SystemTime) -> Decision<'_> {
        self.decide_or_preflight_at(request, self.latest.at_least(now))
    }

    /// As [`View::decide_at`].
    pub(crate) fn decide_or_preflight_at(
        &self,
        request: &Attributes<'_>,
        now: SystemTime,
    ) -> Decision<'_> {
        match self.decide_at(request, now) {
            Decision::Deny(deny) if deny.rule.is_none() => {
                let preflight = self.preflight(request, now);
                preflight.unwrap_or(Decision::Deny(deny))
            }
            decision => decision,
        }
    }

    /// `None` if it is no preflight, or not one that passes; a guard that denies what it asks about is told.
    fn preflight(&self, request: &Attributes<'_>, now: SystemTime) -> Option<Decision<'_>> {
        if self.profile().cors != Cors::Preflight || request.method != "OPTIONS" {
            return None;
        }
        only_value(request.headers, "origin")?;
        let asked = only_value(request.headers, "access-control-request-method")?;
        let asked = str::from_utf8(&asked).ok()?;
        check_method(asked).ok()?;
        let wanted = Attributes {
            method: asked,
            ..*request
        };
        if let Some(guard) = self.guard_against(&wanted) {
            return Some(Decision::denied_by(guard));
        }
        let decision = self.granted(request, now, |rule, grant| {
            let clause = &grant.allow.requests[rule.id.rule as usize];
            let host =
                clause.hosts.is_empty() || clause.hosts.iter().any(|h| h.matches(request.host));
            // Browsers speak no gRPC.
            let opens = !clause.grpc && clause.methods.contains(asked) && host;
            opens.then_some(()).ok_or(Reason::NoMatchingAllow)
        });
        matches!(decision, Decision::Allow(_)).then_some(decision)
    }
}

/// The value of a field that occurs once and is not empty.
fn only_value(headers: &dyn Headers, name: &str) -> Option<SmallVec<[u8; 64]>> {
    let mut count = 0;
    let mut only = SmallVec::new();
    headers.values(name, &mut |value| {
        count += 1;
        only.extend_from_slice(value);
    });
    (count == 1 && !only.is_empty()).then_some(only)
}
