//! Why a request or a connection would be let through or refused: the proxy's evaluator asked by a person.

mod nearest;

use std::{fmt, time::SystemTime};

use identity::SpiffeId;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    Attributes, Caller, Decision, Headers, HttpProfile, Policy, View,
    target::{self, Reject, host},
};

/// What somebody would do, as they would describe it.
#[derive(Debug, Clone, Copy)]
pub struct Question<'q> {
    pub caller: Caller<'q>,
    pub callee: &'q SpiffeId,
    /// The app's port.
    pub port: u16,
    pub call: Call<'q>,
    pub at: SystemTime,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Call<'q> {
    Request(Request<'q>),
    /// An opaque connection.
    Tcp,
}

/// A request whose target is not canonical yet.
#[derive(Clone, Copy)]
pub struct Request<'q> {
    pub method: &'q str,
    /// As on the request line.
    pub target: &'q str,
    /// The Host field; without it, conditions on hosts do not hold.
    pub host: Option<&'q str>,
    pub headers: &'q dyn Headers,
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.target)
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
    /// What would go upstream; absent when the target is refused, and for an opaque connection.
    pub canonical_path: Option<String>,
    /// For what no grant allows: the grant that comes closest.
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

/// A grant that nearly allows what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nearest {
    pub grant: String,
    /// `file:line` of the rule in it.
    pub at: String,
    /// What does not hold; mostly one item.
    pub failed: Vec<Failed>,
}

/// One condition of a grant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// `from`, `to`, `ports`, `path`, `grpc`, `methods`, `hosts`, `headers` or `validity`.
    pub clause: &'static str,
    pub expected: String,
    pub found: String,
}

/// Decides a question as the proxy would, and says why.
pub fn explain(policy: &Policy, question: &Question<'_>) -> Explanation {
    let view = policy.view(question.caller, question.callee, question.port);
    match &question.call {
        Call::Tcp => Explanation::new(view.admit_at(question.at), None, || {
            nearest::to_connection(policy, question)
        }),
        Call::Request(request) => {
            if !takes_upgrade(view.profile(), request.headers) {
                return Explanation::rejected("upgrade_not_enabled");
            }
            explain_request(policy, question, request, &view)
                .unwrap_or_else(|reject| Explanation::rejected(reject.reason()))
        }
    }
}

fn explain_request(
    policy: &Policy,
    question: &Question<'_>,
    request: &Request<'_>,
    view: &View,
) -> Result<Explanation, Reject> {
    target::check_method(request.method)?;
    let target = target::canonicalise(request.target.as_bytes(), &view.profile().target)?;
    let host = match (request.host, target.authority) {
        (None, None) => None,
        (host, authority) => {
            let [host, authority] = [host, authority].map(|host| host.map(str::as_bytes));
            Some(host::agree(host, authority, host::DEFAULT_PORT)?)
        }
    };
    let attributes = Attributes {
        method: request.method,
        path: &target.path,
        host: host.as_ref().map_or("", |host| host.name()),
        headers: request.headers,
    };
    let is_bare = BEYOND_THE_HEAD
        .iter()
        .all(|name| occurrences(request.headers, name) == 0);
    let decision = if is_bare {
        view.decide_or_preflight_at(&attributes, question.at)
    } else {
        view.decide_at(&attributes, question.at)
    };
    Ok(Explanation::new(decision, Some(attributes.path), || {
        nearest::to_request(policy, question, &attributes)
    }))
}

/// Fields by which a request is more than its head, and hence no CORS preflight.
const BEYOND_THE_HEAD: [&str; 3] = ["content-length", "transfer-encoding", "upgrade"];

/// Whether a callee takes the upgrade that a request asks for, if it does. An offer of h2c alone is none: it is removed.
fn takes_upgrade(profile: &HttpProfile, headers: &dyn Headers) -> bool {
    let mut taken = true;
    headers.values("upgrade", &mut |value| {
        let mut listed = profile.upgrades().iter();
        taken &= value.eq_ignore_ascii_case(b"h2c")
            || listed.any(|token| value.eq_ignore_ascii_case(token.as_bytes()));
    });
    taken && occurrences(headers, "upgrade") <= 1
}

fn occurrences(headers: &dyn Headers, name: &str) -> usize {
    let mut count = 0;
    headers.values(name, &mut |_| count += 1);
    count
}

impl Explanation {
    fn new(
        decision: Decision<'_>,
        path: Option<&str>,
        nearest: impl FnOnce() -> Option<Nearest>,
    ) -> Self {
        let (decision, rule, reason) = match decision {
            Decision::Allow(allow) => (Verdict::Allow, Some(allow.grant()), "allow"),
            Decision::Deny(deny) => (Verdict::Deny, deny.rule, deny.reason.as_str()),
            Decision::Reject(reason) => (Verdict::Reject, None, reason.as_str()),
        };
        Self {
            decision,
            rule: rule.map(str::to_owned),
            reason,
            canonical_path: path.map(str::to_owned),
            nearest: match (decision, rule) {
                (Verdict::Deny, None) => nearest(),
                _ => None,
            },
        }
    }

    fn rejected(reason: &'static str) -> Self {
        Self {
            decision: Verdict::Reject,
            rule: None,
            reason,
            canonical_path: None,
            nearest: None,
        }
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
