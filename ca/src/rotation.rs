//! Rotation of the CA's own certificates: the next authority is prepared, becomes active, and the one before it is retired.
//!
//! Where each stands is in the database, and with it its key file as it would rest in the directory. A replica that opens
//! one of the CA's keys so opens the next: with the same passphrase, or in the same token. Every step is one transaction:
//! one that was cut off is taken again, and taken twice it is taken once.
//!
//! A new root is published in the trust bundle beside the old one when it is prepared. Once the sidecars have that bundle,
//! it becomes active, with an intermediate of its own. The CA's own server certificate stays under the old root until that is
//! retired, so that whoever starts with the old bundle still finds the CA. An intermediate comes with each certificate that
//! it signed, and needs no bundle. What was replaced is retired when nothing depends on it any more, or by force.
//!
//! Here is what follows from where the authorities stand; `store/authorities.rs` keeps it, `authority/signers.rs` signs by it.

use crate::federation::REFRESH_HINT;
use crate::profile::{CaCertificate, Validity};
use rustls_pki_types::CertificateDer;
use std::fmt;
use std::time::{Duration, SystemTime};
use zeroize::Zeroizing;

mod accept;
mod automatic;
mod blocked;
mod make;
mod status;

#[cfg(test)]
mod tests;

pub use accept::accept;
pub(crate) use automatic::{Ages, keep};
pub use automatic::{
    DEFAULT_ACTIVATE_AFTER, DEFAULT_PREPARE_AT_PERCENT, DEFAULT_RETIRE_AFTER, Options,
};
pub(crate) use blocked::NAMED;
pub use blocked::{Blocker, Laggard, Refused};
pub use make::{Lives, PrepareError, Prepared, prepare};
pub use status::{Standing, Status, status};

/// Of all sidecars that are alive, unless told otherwise: whoever has not heard of a root refuses what is below it.
pub const DEFAULT_ACKNOWLEDGED_PERCENT: u8 = 100;

/// How long a root is published before it signs, unless told otherwise: other trust domains, which say nothing, ask for the
/// bundle twice meanwhile.
pub const DEFAULT_PUBLISHED_FOR: Duration = REFRESH_HINT.saturating_mul(2);

/// What an authority signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Intermediates; leaves, where the CA has no intermediate.
    Root,
    Intermediate,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        [Self::Root, Self::Intermediate]
            .into_iter()
            .find(|role| role.as_str() == word)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where an authority stands. Each follows the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its key is made; its certificate is awaited from a root elsewhere.
    Requested,
    /// It could sign. A root is published.
    Prepared,
    /// It signs.
    Active,
    /// Another signs in its place. What it signed still counts.
    Retiring,
    /// Its key is forgotten. A root is published no more.
    Retired,
}

impl State {
    const ALL: [Self; 5] = [
        Self::Requested,
        Self::Prepared,
        Self::Active,
        Self::Retiring,
        Self::Retired,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Retired => "retired",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// Who has a step taken; goes into the audit record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// `tipstaff ca rotate`.
    Operator,
    /// The CA itself, as its time has come.
    Age,
    /// The CA itself, although not everybody has answered.
    Deadline,
}

impl By {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Age => "age",
            Self::Deadline => "deadline",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        [Self::Operator, Self::Age, Self::Deadline]
            .into_iter()
            .find(|by| by.as_str() == word)
    }
}

/// A key file, if there is one. Zeroed on drop, and never printed.
#[derive(Clone, Default)]
pub(crate) struct KeyFile(pub(crate) Option<Zeroizing<String>>);

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "<key>" } else { "none" })
    }
}

/// One authority.
#[derive(Debug, Clone)]
pub(crate) struct Generation {
    /// The SHA-256 of its SubjectPublicKeyInfo, as revocations name it.
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) state: State,
    /// The root of an intermediate, once its certificate is there.
    pub(crate) parent: Option<String>,
    /// `None` while it is requested.
    pub(crate) certificate: Option<CertificateDer<'static>>,
    /// PKCS#10, PEM, while it is requested.
    pub(crate) request: Option<String>,
    pub(crate) key: KeyFile,
    /// The first trust bundle that had it. 0: each had.
    pub(crate) sequence: u64,
    /// When it came into its state.
    pub(crate) since: SystemTime,
    /// Who had it made.
    pub(crate) made_by: By,
    /// Whether its key counts for nothing.
    pub(crate) is_revoked: bool,
}

impl Generation {
    /// `None` without a certificate that is one.
    pub(crate) fn validity(&self) -> Option<Validity> {
        Some(CaCertificate::parse(self.certificate.as_ref()?)?.validity)
    }
}

/// The authorities of a CA. None before the first rotation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Generations(pub(crate) Vec<Generation>);

impl Generations {
    pub(crate) fn named(&self, name: &str) -> Option<&Generation> {
        self.0.iter().find(|one| one.name == name)
    }

    /// The root that counts; there is one.
    pub(crate) fn root(&self) -> Option<&Generation> {
        self.of(Role::Root, State::Active).next()
    }

    /// What signs leaves: an intermediate, or the root itself where it has none.
    pub(crate) fn issuer(&self) -> Option<&Generation> {
        self.of(Role::Intermediate, State::Active)
            .next()
            .or(self.root())
    }

    /// What would be activated next. Not what was revoked meanwhile: every sidecar would refuse what it signs.
    pub(crate) fn next(&self, role: Role) -> Option<&Generation> {
        self.prepared(role).find(|one| !self.is_refused(one))
    }

    /// What was prepared and then revoked, and what was prepared for it: with the next of its role it is retired.
    pub(crate) fn given_up(&self, role: Role) -> Vec<&Generation> {
        let refused: Vec<_> = self
            .prepared(role)
            .filter(|one| self.is_refused(one))
            .collect();
        let below = refused.iter().flat_map(|one| self.below(&one.name));
        refused.iter().copied().chain(below).collect()
    }

    /// What was made for a role and never signed anything, revoked or not, and what was made for it. Failing that, the request.
    pub(crate) fn unused(&self, role: Role) -> Vec<&Generation> {
        let prepared: Vec<_> = self.prepared(role).collect();
        let below = prepared.iter().flat_map(|one| self.below(&one.name));
        let unused: Vec<_> = prepared.iter().copied().chain(below).collect();
        match unused.is_empty() {
            true => self.requested().into_iter().collect(),
            false => unused,
        }
    }

    /// What would sign leaves after the next steps.
    pub(crate) fn next_issuers(&self) -> impl Iterator<Item = &Generation> {
        let root = self.next(Role::Root);
        let below = root.and_then(|root| self.below(&root.name).next());
        [below.or(root), self.next(Role::Intermediate)]
            .into_iter()
            .flatten()
    }

    fn prepared(&self, role: Role) -> impl Iterator<Item = &Generation> {
        let root = self.root();
        self.of(role, State::Prepared).filter(move |one| {
            one.role == Role::Root
                || root.is_some_and(|root| one.parent.as_ref() == Some(&root.name))
        })
    }

    fn is_refused(&self, one: &Generation) -> bool {
        one.is_revoked || self.below(&one.name).any(|below| below.is_revoked)
    }

    pub(crate) fn requested(&self) -> Option<&Generation> {
        self.of(Role::Intermediate, State::Requested).next()
    }

    /// Those of a role that are being replaced. An intermediate goes with its root, if that is.
    pub(crate) fn retiring(&self, role: Role) -> impl Iterator<Item = &Generation> {
        self.of(role, State::Retiring).filter(move |one| {
            let root = one.parent.as_ref().and_then(|name| self.named(name));
            !root.is_some_and(|root| root.state == State::Retiring)
        })
    }

    /// The intermediates of a root that are not retired.
    pub(crate) fn below(&self, root: &str) -> impl Iterator<Item = &Generation> {
        self.0
            .iter()
            .filter(move |one| one.parent.as_deref() == Some(root) && one.state != State::Retired)
    }

    /// What steps back when the next of a role becomes active. With a root goes what is below it, and what was prepared for it.
    pub(crate) fn replaced(&self, role: Role) -> Vec<&Generation> {
        let mut replaced: Vec<_> = self.of(Role::Intermediate, State::Active).collect();
        if role == Role::Root {
            replaced.extend(self.root());
            replaced.extend(self.next(Role::Intermediate));
        }
        replaced
    }

    /// What signs the CA's own server certificate: what whoever starts with the oldest trust bundle knows.
    pub(crate) fn server_issuer(&self) -> Option<&Generation> {
        let oldest = self
            .retiring(Role::Root)
            .min_by_key(|root| (root.sequence, root.since));
        let Some(root) = oldest else {
            return self.issuer();
        };
        let last = self.below(&root.name).max_by_key(|one| one.since);
        Some(last.unwrap_or(root))
    }

    fn of(&self, role: Role, state: State) -> impl Iterator<Item = &Generation> {
        self.0
            .iter()
            .filter(move |one| one.role == role && one.state == state)
    }
}

/// A step that was taken, or that had been before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Step {
    /// The authorities that it concerned; none when there was nothing left to do.
    pub authorities: Vec<String>,
    /// What would have kept it from being taken, had it not been forced.
    pub despite: Vec<Blocker>,
    /// Who was not waited for, when a root signs from now on.
    pub silent: Silent,
    /// Keys that are forgotten here and still in a token: the `CKA_ID` of each, in hexadecimal.
    pub left_in_token: Vec<String>,
}

/// Who enrolled, has a valid certificate, and never said which trust bundle it has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Silent {
    pub count: u64,
    /// The first of their identities.
    pub first: Vec<String>,
}
