//! Why a request would be let through or refused: the proxy's evaluator asked by a person.

use std::{fmt, time::SystemTime};

use identity::SpiffeId;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    Attributes, Caller, Decision, Headers, Policy,
    document::{Clause, Grant},
    engine::Mismatch,
    pattern::{Methods, segments},
    target::{self, host},
};

/// A request as someone would describe it: the target is not canonical yet.
#[derive(Clone, Copy)]
pub struct Question<'q> {
    pub caller: Caller<'q>,
    pub callee: &'q SpiffeId,
    /// The app's port.
    pub port: u16,
    pub method: &'q str,
    /// As on the request line.
    pub target: &'q str,
    /// The Host field; without it, conditions on hosts do not hold.
    pub host: Option<&'q str>,
    pub headers: &'q dyn Headers,
    pub at: SystemTime,
}

impl fmt::Debug for Question<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} -> {}: {} {}",
            self.caller, self.callee, self.method, self.target
        )
    }
}

/// The answer. Serialises to the JSON of `tipstaff policy explain`; displays as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub decision: Verdict,
    /// The grant or guard that decided, `namespace/name`.
    pub rule: Option<String>,
    /// A word from a closed set.
    pub reason: &'static str,
    /// What would go upstream; absent when the target is refused.
    pub canonical_path: Option<String>,
    /// For a request that no grant allows: the grant that comes closest.
    pub nearest: Option<Nearest>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Allow,
    Deny,
    Reject,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
            Verdict::Reject => "reject",
        }
    }
}

/// A grant that nearly allows a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nearest {
    pub grant: String,
    /// `file:line` of the rule in it.
    pub at: String,
    /// What does not hold; mostly one item.
    pub failed: Vec<Failed>,
}

/// One condition of a grant that a request does not satisfy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// `from`, `to`, `ports`, `path`, `grpc`, `methods`, `hosts`, `headers` or `validity`.
    pub clause: &'static str,
    pub expected: String,
    pub found: String,
}

/// Decides a question as the proxy would, and says why.
pub fn explain(policy: &Policy, question: &Question<'_>) -> Explanation {
    let profile = policy.profile(question.callee, question.port);
    let rejected = |reason| Explanation {
        decision: Verdict::Reject,
        rule: None,
        reason,
        canonical_path: None,
        nearest: None,
    };
    let read = target::check_method(question.method)
        .and_then(|()| target::canonicalise(question.target.as_bytes(), &profile));
    let target = match read {
        Ok(target) => target,
        Err(reject) => return rejected(reject.reason()),
    };
    let host = match (question.host, target.authority) {
        (None, None) => None,
        (host, authority) => {
            let [host, authority] = [host, authority].map(|host| host.map(str::as_bytes));
            match host::agree(host, authority, host::DEFAULT_PORT) {
                Ok(host) => Some(host),
                Err(reject) => return rejected(reject.reason()),
            }
        }
    };
    let request = Attributes {
        method: question.method,
        path: &target.path,
        host: host.as_ref().map_or("", |host| host.name()),
        headers: question.headers,
    };
    let view = policy.view(question.caller, question.callee, question.port);
    let (decision, rule, reason) = match view.decide_at(&request, question.at) {
        Decision::Allow(allow) => (Verdict::Allow, Some(allow.grant()), "allow"),
        Decision::Deny(deny) => (Verdict::Deny, deny.rule, deny.reason.as_str()),
        Decision::Reject(reason) => (Verdict::Reject, None, reason.as_str()),
    };
    let nearest = match (decision, rule) {
        (Verdict::Deny, None) => nearest(policy, question, &request),
        _ => None,
    };
    Explanation {
        decision,
        rule: rule.map(str::to_owned),
        reason,
        canonical_path: Some(request.path.to_owned()),
        nearest,
    }
}

/// The rule with the fewest conditions that do not hold; of several, the one whose path agrees longest. Beyond two
/// there is no telling what its author meant.
fn nearest(policy: &Policy, question: &Question<'_>, request: &Attributes<'_>) -> Option<Nearest> {
    let rules = policy.rules().grants.iter().flat_map(|grant| {
        grant
            .allow
            .requests
            .iter()
            .map(move |clause| (grant, clause))
    });
    let misses =
        rules.map(|(grant, clause)| (grant, clause, failures(grant, clause, question, request)));
    let (grant, clause, failed) = misses
        .filter(|(_, _, failed)| failed.len() <= 2)
        .min_by_key(|(_, clause, failed)| {
            (failed.len(), usize::MAX - agreement(clause, request.path))
        })?;
    Some(Nearest {
        grant: grant.name.clone(),
        at: format!("{}:{}", clause.place.file(), clause.place.line()),
        failed,
    })
}

/// How many leading segments of the pattern and the path are equal.
fn agreement(clause: &Clause, path: &str) -> usize {
    let pattern = segments(clause.path.as_str());
    pattern
        .zip(segments(path))
        .take_while(|(pattern, segment)| pattern == segment)
        .count()
}

fn failures(
    grant: &Grant,
    clause: &Clause,
    question: &Question<'_>,
    request: &Attributes<'_>,
) -> Vec<Failed> {
    let mut failed = Vec::new();
    let mut fail = |clause, expected: String, found: String| {
        failed.push(Failed {
            clause,
            expected,
            found,
        })
    };
    if !grant.from.iter().any(|from| from.matches(question.caller)) {
        fail("from", one_of(&grant.from), question.caller.to_string());
    }
    if !grant
        .scope
        .to
        .iter()
        .any(|to| to.matches_id(question.callee))
    {
        fail("to", one_of(&grant.scope.to), question.callee.to_string());
    }
    if !grant.scope.has_port(question.port) {
        fail(
            "ports",
            one_of(&grant.scope.ports),
            question.port.to_string(),
        );
    }
    if !clause.path.matches(request.path) {
        fail("path", clause.path.to_string(), request.path.to_owned());
    }
    match clause.mismatch(request) {
        Some(Mismatch::Protocol) => {
            fail(
                "grpc",
                "a gRPC call: POST with content-type application/grpc".to_owned(),
                "none".to_owned(),
            );
        }
        Some(Mismatch::Method) => fail(
            "methods",
            methods(&clause.methods),
            request.method.to_owned(),
        ),
        Some(Mismatch::Host) => fail("hosts", one_of(&clause.hosts), request.host.to_owned()),
        Some(Mismatch::Header(index)) => {
            let rule = &clause.headers[index];
            fail(
                "headers",
                rule.to_string(),
                format!("{} as sent", rule.name),
            );
        }
        None => {}
    }
    if !grant.validity.contains(question.at) {
        let (start, end) = (grant.validity.not_before, grant.validity.not_after);
        let expected = format!("{} to {}", instant(start, "always"), instant(end, "never"));
        fail("validity", expected, instant(Some(question.at), ""));
    }
    failed
}

fn one_of<T: fmt::Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

fn methods(methods: &Methods) -> String {
    match methods {
        Methods::Any => "*".to_owned(),
        Methods::Listed(listed) => one_of(listed),
    }
}

/// RFC 3339, or `absent` when there is no instant.
pub(crate) fn instant(instant: Option<SystemTime>, absent: &str) -> String {
    let written = instant.and_then(|instant| OffsetDateTime::from(instant).format(&Rfc3339).ok());
    written.unwrap_or_else(|| absent.to_owned())
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.decision.as_str(), self.reason)?;
        if let Some(rule) = &self.rule {
            write!(f, " by {rule}")?;
        }
        if let Some(path) = &self.canonical_path {
            write!(f, "\n  path: {path}")?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, "\n  nearest: {} at {}", nearest.grant, nearest.at)?;
            for failed in &nearest.failed {
                write!(
                    f,
                    "\n    {}: expected {}, found {}",
                    failed.clause, failed.expected, failed.found
                )?;
            }
        }
        Ok(())
    }
}
