//! Which endpoints the sidecars of a service are at, now. What finds them runs beside the requests, once for the process;
//! each worker follows it and never waits for it once a set of endpoints is known.

use crate::config::Endpoint;
use std::sync::Arc;
use tokio::sync::watch;

/// An endpoint of a service. Its address is who it is: what has the same one is the same endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) address: Endpoint,
}

/// What is known of a service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Known {
    /// Never none. This is never taken back: what was known last is better than nothing.
    Members(Arc<[Member]>),
}

/// Finds the endpoints of services.
#[derive(Debug, Default)]
pub(crate) struct Discovery {}

impl Discovery {
    /// What is known of the endpoints that `listed` stands for, from now on.
    #[expect(clippy::unused_self, reason = "what changes is found by this one")]
    pub(crate) fn follow(&self, listed: &[Endpoint]) -> watch::Receiver<Known> {
        let members = listed.iter().cloned().map(|address| Member { address });
        watch::channel(Known::Members(members.collect())).1
    }
}
