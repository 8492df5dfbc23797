//! The decision on one request: guards beat grants, the most specific path names the decision, default deny.

mod connection;
mod fold;
mod preflight;
pub(crate) mod trie;

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use smallvec::SmallVec;

use crate::{
    document::{Clause, Grant, Validity},
    engine::trie::RuleId,
    limit::LimitSpec,
    pattern::Methods,
    pattern::elements,
    view::View,
};

pub(crate) use connection::Connections;
pub(crate) use fold::{Folded, MAX_FOLDED_BYTES};

/// Fields by which some frameworks replace the method. A guard looks at them as at the method itself; the proxy removes
/// them before it forwards a request.
pub const METHOD_OVERRIDES: [&str; 3] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];

/// What a decision may look at. The strings are in canonical form (see [`crate::target`]): deciding on anything else
/// than what goes upstream would be a hole.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    /// As sent; methods are case-sensitive tokens (RFC 9110, section 9.1).
    pub method: &'a str,
    /// The canonical path, without the query.
    pub path: &'a str,
    /// The canonical host name ([`crate::target::host::Host::name`]).
    pub host: &'a str,
    /// All header fields of the request.
    pub headers: &'a dyn Headers,
}

impl fmt::Debug for Attributes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.method, self.host, self.path)
    }
}

/// Header lookup without an HTTP crate.
pub trait Headers {
    /// Calls `see` with every value of the field `name` (given in lower case), in order; a field is the same if
    /// [`is_same_field`] says so.
    fn values(&self, name: &str, see: &mut dyn FnMut(&[u8]));
}

/// Whether two field names in lower case are one to an app that reads all punctuation alike, as CGI and its kin do. With
/// `x_tenant` beside it, a condition on `x-tenant` would speak of another value than the app reads.
pub fn is_same_field(name: &str, other: &str) -> bool {
    let is_same =
        |(a, b): (u8, u8)| a == b || !(a.is_ascii_alphanumeric() || b.is_ascii_alphanumeric());
    name.len() == other.len() && name.bytes().zip(other.bytes()).all(is_same)
}

/// What is to become of a request or an opaque TCP connection.
#[derive(Debug)]
pub enum Decision<'v> {
    /// Forward it, once its limits are charged.
    Allow(Allow<'v>),
    /// 403, or grpc-status 7; a connection is closed.
    Deny(Deny<'v>),
    /// 400, or grpc-status 3: not a well-formed request for the protocol the policy speaks of here.
    Reject(Reason),
}

impl<'v> Decision<'v> {
    fn denied_by(guard: &'v str) -> Self {
        Self::Deny(Deny {
            reason: Reason::ExplicitDeny,
            rule: Some(guard),
        })
    }
}

/// A request or an opaque TCP connection that some grant allows.
#[derive(Debug)]
pub struct Allow<'v> {
    /// The grant with the most specific path, and its rule that matched.
    grant: &'v Grant,
    rule: u32,
    /// When the last of the matching grants ends; that instant still belongs to it.
    not_after: Option<SystemTime>,
    /// Limits to charge, in order: those of every matching grant, then those of shared Limit documents.
    pub limits: LimitList<'v>,
}

/// What stands for a route where there is none.
const TCP_ROUTE: &str = "tcp";

impl<'v> Allow<'v> {
    fn new(grant: &'v Grant, rule: u32, not_after: Option<SystemTime>) -> Self {
        Self {
            grant,
            rule,
            not_after,
            limits: LimitList::new(),
        }
    }

    /// Another grant allows it too: the later end counts, and never is the latest.
    fn also_until(&mut self, not_after: Option<SystemTime>) {
        self.not_after = self
            .not_after
            .zip(not_after)
            .map(|(mine, other)| mine.max(other));
    }

    /// `namespace/name` of the grant with the most specific path.
    pub fn grant(&self) -> &'v str {
        &self.grant.name
    }

    /// The path pattern that matched, as written; for gRPC `/service/method`; for an opaque TCP connection `tcp`.
    pub fn route(&self) -> &'v str {
        match self.grant.allow.requests.get(self.rule as usize) {
            Some(clause) => clause.path.as_str(),
            None => TCP_ROUTE,
        }
    }

    /// The first instant at which none of the grants that match now holds any more; `None` if one of them never ends.
    ///
    /// A grant that ends also ends the long streams it carried. So whoever lets one go on (a WebSocket, a gRPC stream,
    /// a TCP connection) asks again at this instant, and whenever the policy was replaced, with what was decided on:
    /// [`View::decide`] with the same attributes, or [`View::admit`]. Another grant may have begun by then.
    pub fn until(&self) -> Option<SystemTime> {
        // An end so far off that nothing comes after it is none.
        self.not_after?.checked_add(Duration::from_nanos(1))
    }
}

/// The limits of one request; on the heap only past eight.
pub type LimitList<'v> = SmallVec<[&'v LimitSpec; 8]>;

/// A request that is refused. Explaining what would have been needed is [`crate::explain`]'s task, off the hot path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deny<'v> {
    /// Why.
    pub reason: Reason,
    /// `namespace/name` of the guard that said no, if one did. For the operator, never for the caller.
    pub rule: Option<&'v str>,
}

/// Why a request was not allowed: a closed set, usable as a metrics label. Of several, the greatest is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No grant matched.
    NoMatchingAllow,
    /// A gRPC grant has this path, but the request is not a gRPC call.
    NotGrpc,
    /// A grant matches, but is not valid yet or no longer.
    OutsideValidity,
    /// A guard matched.
    ExplicitDeny,
    /// A gRPC call whose path is not `/service/method`.
    GrpcBadPath,
}

impl Reason {
    /// The word for logs, metrics and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::ExplicitDeny => "explicit_deny",
            Reason::NoMatchingAllow => "no_matching_allow",
            Reason::OutsideValidity => "outside_validity",
            Reason::NotGrpc => "not_grpc",
            Reason::GrpcBadPath => "grpc_bad_path",
        }
    }
}

impl View {
    /// Decides one request at `now`. Allocates nothing on allow (past eight limits excepted). The cost grows with the
    /// length of the path, not with the number of grants, except for those of this caller whose pattern matches the path:
    /// they are tried one after another, since each may have limits to charge. `policy check` points at patterns that
    /// hundreds of rules share.
    pub fn decide(&self, request: &Attributes<'_>, now: SystemTime) -> Decision<'_> {
        self.decide_at(request, self.latest.at_least(now))
    }

    /// Decides as of an instant that somebody merely asks about: later decisions do not count it as seen.
    pub(crate) fn decide_at(&self, request: &Attributes<'_>, now: SystemTime) -> Decision<'_> {
        if self.grpc && is_grpc(request) && !is_grpc_path(request.path) {
            return Decision::Reject(Reason::GrpcBadPath);
        }
        if let Some(guard) = self.guard_against(request) {
            return Decision::denied_by(guard);
        }
        let method = Methods::bit(request.method);
        self.granted(request, now, |rule, grant| match rule.methods {
            Some(methods) if methods & method == 0 => Err(Reason::NoMatchingAllow),
            Some(_) => Ok(()),
            None => matches(&grant.allow.requests[rule.id.rule as usize], request),
        })
    }

    /// Allows if some grant holds at `now` and has a rule whose path matches and that `permits`.
    fn granted(
        &self,
        request: &Attributes<'_>,
        now: SystemTime,
        permits: impl Fn(&GrantRule, &Grant) -> Result<(), Reason>,
    ) -> Decision<'_> {
        let mut allow: Option<Allow<'_>> = None;
        let mut reason = Reason::NoMatchingAllow;
        // Grants that had their limits listed: two rules of one grant charge it once.
        let mut charged: SmallVec<[u32; 8]> = SmallVec::new();
        self.grants.narrow(request.path, &mut |rule| {
            let grant = &self.rules.grants[rule.id.document as usize];
            let within = rule.validity.contains(now);
            let permitted =
                permits(&rule, grant).and(within.then_some(()).ok_or(Reason::OutsideValidity));
            if let Err(refusal) = permitted {
                reason = reason.max(refusal);
                return;
            }
            let not_after = rule.validity.not_after;
            let allow = allow.get_or_insert_with(|| Allow::new(grant, rule.id.rule, not_after));
            allow.also_until(not_after);
            if rule.has_limits && !charged.contains(&rule.id.document) {
                charged.push(rule.id.document);
                allow.limits.extend(&grant.limits);
            }
        });
        let Some(mut allow) = allow else {
            return Decision::Deny(Deny { reason, rule: None });
        };
        self.add_shared_limits(request, &mut allow.limits);
        Decision::Allow(allow)
    }

    fn guard_against(&self, request: &Attributes<'_>) -> Option<&str> {
        let mut found = None;
        self.guards.wide(request.path, &mut |id| {
            let guard = &self.rules.guards[id.document as usize];
            let holds = guard.deny.requests[id.rule as usize].may_match(request);
            if holds {
                found = Some(guard.name.as_str());
            }
            holds
        });
        found
    }

    fn add_shared_limits<'v>(&'v self, request: &Attributes<'_>, limits: &mut LimitList<'v>) {
        let mut charged: SmallVec<[u32; 8]> = SmallVec::new();
        self.limits.narrow(request.path, &mut |id| {
            let shared = &self.rules.limits[id.document as usize];
            if shared.matching.requests[id.rule as usize]
                .mismatch(request)
                .is_none()
                && !charged.contains(&id.document)
            {
                charged.push(id.document);
                limits.extend(&shared.limits);
            }
        });
    }
}

/// A grant's rule at its place in the trie, with a copy of what decides most requests: among ten thousand grants a
/// decision costs as much as it has to wait for memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GrantRule {
    id: RuleId,
    /// [`Methods::bits`], if the rule asks for nothing besides path and method.
    methods: Option<u8>,
    validity: Validity,
    has_limits: bool,
}

impl GrantRule {
    pub(crate) fn new(grant: &Grant, id: RuleId) -> Self {
        let clause = &grant.allow.requests[id.rule as usize];
        let is_plain = !clause.grpc && clause.hosts.is_empty() && clause.headers.is_empty();
        Self {
            id,
            methods: clause.methods.bits().filter(|_| is_plain),
            validity: grant.validity,
            has_limits: !grant.limits.is_empty(),
        }
    }
}

/// Whether a rule whose path matched speaks of the request.
fn matches(clause: &Clause, request: &Attributes<'_>) -> Result<(), Reason> {
    match clause.mismatch(request) {
        Some(Mismatch::Protocol) => Err(Reason::NotGrpc),
        Some(_) => Err(Reason::NoMatchingAllow),
        None => Ok(()),
    }
}

/// The part of a rule that a request does not satisfy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mismatch {
    Protocol,
    Method,
    Host,
    Header(usize),
}

impl Clause {
    /// The first part that does not match besides the path, read narrowly, as for a grant.
    pub(crate) fn mismatch(&self, request: &Attributes<'_>) -> Option<Mismatch> {
        if self.grpc && (request.method != "POST" || !is_grpc(request)) {
            return Some(Mismatch::Protocol);
        }
        if !self.methods.contains(request.method) {
            return Some(Mismatch::Method);
        }
        if !self.hosts.is_empty() && !self.hosts.iter().any(|h| h.matches(request.host)) {
            return Some(Mismatch::Host);
        }
        let missing = self
            .headers
            .iter()
            .position(|header| !header.holds_alone(request.headers));
        missing.map(Mismatch::Header)
    }

    /// Whether everything besides the path may match in the eyes of some server: as for a guard. The protocol makes no
    /// difference, so that a gRPC method is guarded however it is called.
    fn may_match(&self, request: &Attributes<'_>) -> bool {
        let method = || {
            let mut found = self.methods.contains_folded(request.method.as_bytes());
            for field in METHOD_OVERRIDES {
                request.headers.values(field, &mut |value| {
                    found |= elements(value).any(|method| self.methods.contains_folded(method));
                });
            }
            found
        };
        let host = || self.hosts.is_empty() || self.hosts.iter().any(|h| h.matches(request.host));
        method()
            && host()
            && self
                .headers
                .iter()
                .all(|h| h.holds_somewhere(request.headers))
    }
}

/// The content type of a gRPC call, once.
fn is_grpc(request: &Attributes<'_>) -> bool {
    let mut count = 0;
    let mut grpc = false;
    request.headers.values("content-type", &mut |value| {
        count += 1;
        grpc = value.starts_with(b"application/grpc");
    });
    count == 1 && grpc
}

/// `/service/method`.
fn is_grpc_path(path: &str) -> bool {
    let mut segments = crate::pattern::segments(path);
    let two = segments
        .by_ref()
        .take(2)
        .filter(|segment| !segment.is_empty())
        .count()
        == 2;
    two && segments.next().is_none()
}
