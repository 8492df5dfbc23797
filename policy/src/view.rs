//! `Policy`: compiled documents; `View`: what of them concerns one caller, callee and port.

use std::sync::Arc;

use identity::SpiffeId;

use crate::target::Profile;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller<'a> {
    /// A peer whose certificate was verified.
    Identity(&'a SpiffeId),
    /// A plaintext caller in permissive mode, or one without a client certificate at ingress.
    Unauthenticated,
}

/// Everything a directory of documents says. Immutable; a reload compiles a new one.
#[derive(Debug)]
pub struct Policy {}

/// How many documents of each kind a policy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub grants: usize,
    pub guards: usize,
    pub limits: usize,
    pub profiles: usize,
}

/// The latest time seen by any decision. Passed from each policy to its successor ([`crate::Options`]), so that an
/// expired grant does not come back when the clock is set back. Clones share one value.
#[derive(Debug, Clone, Default)]
pub struct Latest {}

impl Policy {
    /// A policy that refuses everything: what serves before the first good one is loaded.
    pub fn deny_all() -> Self {
        Self {}
    }

    /// A hash of the sources, 16 hex digits: shown as the policy's generation. Not a security boundary.
    pub fn fingerprint(&self) -> &str {
        ""
    }

    /// How many documents are in force.
    pub fn counts(&self) -> Counts {
        Counts::default()
    }

    /// How requests to this callee and port are read; strict unless an HttpProfile document says otherwise.
    pub fn profile(&self, callee: &SpiffeId, port: u16) -> Profile {
        let _ = (callee, port);
        Profile::default()
    }

    /// What concerns this caller, callee and port. Resolving patterns costs time in the number of documents, so a
    /// connection asks once per policy generation; results are cached here, bounded.
    pub fn view(&self, caller: Caller<'_>, callee: &SpiffeId, port: u16) -> Arc<View> {
        let _ = (caller, callee, port);
        Arc::new(View {})
    }
}

/// What of a policy concerns one caller, callee and port; see [`View::decide`](crate::View::decide).
#[derive(Debug)]
pub struct View {}
