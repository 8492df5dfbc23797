//! What a callee's port takes beyond the strict profile (POLICY.md, section 4).
//!
//! It belongs to the callee and port and is applied before any rule is matched, so that one caller's grant cannot change
//! how another's request is read.

use crate::target;

/// How the HTTP of a callee's port is read; the default is strict.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpProfile {
    /// How request targets are read.
    pub target: target::Profile,
    /// Whether HTTP/1.0 is spoken.
    pub http10: bool,
    /// In lower case, in order, each once: two profiles that say the same are equal.
    upgrades: Vec<Box<str>>,
    pub(crate) cors: Cors,
}

/// What becomes of a CORS preflight (Fetch standard, section 4.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Cors {
    /// It is a request like any other: some grant has to name OPTIONS.
    #[default]
    AnyRequest,
    /// It passes where the request passes that it asks about.
    Preflight,
}

impl HttpProfile {
    pub(crate) fn new(
        target: target::Profile,
        mut upgrades: Vec<Box<str>>,
        http10: bool,
        cors: Cors,
    ) -> Self {
        upgrades.sort_unstable();
        upgrades.dedup();
        Self {
            target,
            http10,
            upgrades,
            cors,
        }
    }

    /// The protocols that a request may ask to go on with, in lower case; names compare without regard to case (RFC 9110,
    /// section 7.8). Never one whose inside is requests again, such as `h2c`.
    ///
    /// The request that asks is decided on like any other, by its own method and path: no grant, no upgrade.
    pub fn upgrades(&self) -> &[Box<str>] {
        &self.upgrades
    }
}
