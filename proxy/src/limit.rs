//! Permit -> go on, or 429. After the decision, so that a refused caller spends no quota.

use crate::authorize::{DecisionId, Fields, Permit};
use crate::error::Failure;
use crate::peer::Who;
use crate::upstream::is_grpc;
use crate::worker::Shared;
use http::request::Parts;
use identity::SpiffeId;
use policy::Caller;
use policy::limit::Subject;
use std::net::IpAddr;
use tokio::time::Instant;

/// A request over one of its limits.
#[derive(Debug)]
pub(crate) struct Exceeded {
    /// The limit as documents name it, for the operator alone.
    pub(crate) limit: String,
    /// Seconds.
    pub(crate) retry_after: u64,
    /// The values of `RateLimit-Policy` and `RateLimit`; they name an alias.
    pub(crate) policy_field: String,
    pub(crate) limit_field: String,
    pub(crate) id: DecisionId,
}

/// Charges every limit of the permit, or none, with a request that began at `begun`.
pub(crate) fn charge(
    shared: &Shared,
    permit: &Permit<'_>,
    head: &Parts,
    (who, client_ip): (&Who, IpAddr),
    begun: Instant,
) -> Result<(), Failure> {
    let allow = permit.allow();
    if allow.limits.is_empty() {
        return Ok(());
    }
    let path = head.uri.path();
    let id = match who.caller() {
        Caller::Identity(id) => Some(id),
        Caller::Unauthenticated => None,
    };
    let subject = Subject {
        identity: id.map(SpiffeId::as_str),
        namespace: id.and_then(SpiffeId::namespace),
        route: allow.route(),
        method: head.method.as_str(),
        grpc_method: is_grpc(&head.method, &head.headers).then(|| path.trim_start_matches('/')),
        client_ip: Some(client_ip),
        headers: &Fields(&head.headers),
    };
    let now = shared.uptime(begun);
    let charged = shared.limits.charge(&allow.limits, &subject, now);
    charged.map(|_| ()).map_err(|exceeded| {
        shared.metrics.limit_refusal(exceeded.id);
        Failure::Limited(Exceeded {
            limit: exceeded.id.to_owned(),
            retry_after: exceeded.retry_after,
            policy_field: exceeded.standing.policy_field(),
            limit_field: exceeded.standing.limit_field(),
            id: DecisionId::new(),
        })
    })
}
