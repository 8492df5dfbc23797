//! The decision on an opaque TCP connection, of which only caller, callee and port are known.

use std::time::SystemTime;

use crate::{
    Allow, Decision, Deny, Reason,
    compile::Rules,
    view::{Selection, View},
};

/// What of a policy concerns the opaque TCP connections of a view, as indices into [`Rules`].
#[derive(Debug)]
pub(crate) struct Connections {
    grants: Box<[u32]>,
    guard: Option<u32>,
    limits: Box<[u32]>,
}

impl Connections {
    pub(crate) fn new(rules: &Rules, selection: &Selection) -> Self {
        let those = |documents: &[u32], speaks_of_tcp: &dyn Fn(usize) -> bool| {
            let documents = documents.iter().copied();
            documents
                .filter(|document| speaks_of_tcp(*document as usize))
                .collect()
        };
        Self {
            grants: those(&selection.grants, &|grant| {
                rules.grants[grant].allow.tcp.is_some()
            }),
            // Bytes that nobody looks into may be any request, so whatever a guard denies, they may be that.
            guard: selection.guards.first().copied(),
            limits: those(&selection.limits, &|limit| {
                rules.limits[limit].matching.tcp.is_some()
            }),
        }
    }
}

impl View {
    /// Decides an opaque TCP connection at `now`: a grant has to say `tcp: true`, and no guard may reach caller, callee
    /// and port, whatever it denies there. Each matching grant's limits are to be charged once for the connection, then
    /// those of shared Limit documents that match everything or say `tcp: true`. Allocates nothing on allow (past eight
    /// limits excepted). Never [`Decision::Reject`].
    ///
    /// Ask again at [`Allow::until`] and whenever the policy was replaced.
    pub fn admit(&self, now: SystemTime) -> Decision<'_> {
        self.admit_at(self.latest.at_least(now))
    }

    /// As [`View::decide_at`].
    pub(crate) fn admit_at(&self, now: SystemTime) -> Decision<'_> {
        let concern = &self.connections;
        if let Some(guard) = concern.guard {
            return Decision::denied_by(&self.rules.guards[guard as usize].name);
        }
        let mut allow: Option<Allow<'_>> = None;
        let mut reason = Reason::NoMatchingAllow;
        for &document in &concern.grants {
            let grant = &self.rules.grants[document as usize];
            if !grant.validity.contains(now) {
                reason = Reason::OutsideValidity;
                continue;
            }
            let not_after = grant.validity.not_after;
            let allow = allow.get_or_insert_with(|| Allow::new(grant, 0, not_after));
            allow.also_until(not_after);
            allow.limits.extend(&grant.limits);
        }
        let Some(mut allow) = allow else {
            return Decision::Deny(Deny { reason, rule: None });
        };
        for &document in &concern.limits {
            allow
                .limits
                .extend(&self.rules.limits[document as usize].limits);
        }
        Decision::Allow(allow)
    }
}
