//! The decision on one request: guards beat grants, the most specific path names the decision, default deny.

use std::{fmt, time::SystemTime};

use smallvec::SmallVec;

use crate::{limit::LimitSpec, view::View};

/// What a decision may look at. The strings are in canonical form (see [`crate::target`]): deciding on anything else
/// than what goes upstream would be a hole.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    /// As sent; methods are case-sensitive tokens (RFC 9110 section 9.1).
    pub method: &'a str,
    /// The canonical path, without the query.
    pub path: &'a str,
    /// The canonical host, without the default port.
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
    /// Calls `see` with every value of the field `name` (given in lower case), in order.
    fn values(&self, name: &str, see: &mut dyn FnMut(&[u8]));
}

/// What is to become of a request.
#[derive(Debug)]
pub enum Decision<'v> {
    /// Forward it, once its limits are charged.
    Allow(Allow<'v>),
    /// 403, or grpc-status 7.
    Deny(Deny<'v>),
    /// 400: not a well-formed request for the protocol the policy speaks of here.
    Reject(Reason),
}

/// A request that some grant allows.
#[derive(Debug)]
pub struct Allow<'v> {
    /// `namespace/name` of the grant with the most specific path.
    pub grant: &'v str,
    /// The path pattern that matched, as written; for gRPC `/service/method`.
    pub route: &'v str,
    /// Limits to charge, in order: those of every matching grant, then those of shared Limit documents.
    pub limits: LimitList<'v>,
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

/// Why a request was not allowed: a closed set, usable as a metrics label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A guard matched.
    ExplicitDeny,
    /// No grant matched.
    NoMatchingAllow,
    /// Only a grant that is not valid yet or no longer matched.
    OutsideValidity,
    /// Only a gRPC grant matched, and the request is not a gRPC call.
    NotGrpc,
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
    /// Decides one request at `now`. Allocates nothing on allow; the cost grows with the length of the path, not with
    /// the number of grants.
    pub fn decide(&self, request: &Attributes<'_>, now: SystemTime) -> Decision<'_> {
        let _ = (request, now);
        Decision::Deny(Deny {
            reason: Reason::NoMatchingAllow,
            rule: None,
        })
    }
}
