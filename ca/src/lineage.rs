//! Lineages: which certificate came of which.
//!
//! An enrolment begins a lineage, and each certificate in it has one successor. A renewal may be repeated with the key
//! it was first asked for: its reply was lost. A second successor with another key means that two hold the key of the
//! first certificate, one of them a thief: the lineage is frozen, and nothing more is issued to it until an operator has
//! looked at it. Whoever proves anew who it is, as after a restart, begins a chain beside which the older ones of the same
//! identity in the lineage are not continued: a key that was copied before is of no use then. What was issued before stays valid until it ends or is revoked.
//!
//! The rules are applied in the transaction that records a certificate (`store/lineage.rs`), so that of two renewals at
//! the same moment, by whichever replica, one is first.

use crate::csr::KeyHash;
use crate::ledger::fingerprint;
use crate::revoke::Target;
use std::fmt;

/// The name of a lineage, in lower-case hexadecimal: 128 bits of the enrolment key's hash, which stay the same over
/// restarts of a workload, or of what an attestor has vouched for; without either, the serial of the lineage's first
/// certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LineageName(String);

impl LineageName {
    /// The lineage of an enrolment key.
    pub(crate) fn of_key(key: &KeyHash) -> Self {
        let mut name = key.to_string();
        name.truncate(32);
        Self(name)
    }

    /// The lineage of what an attestor vouches for, such as a pod: the same over restarts of its containers.
    pub(crate) fn of_holder(attestor: &str, holder: &str) -> Self {
        let mut name = fingerprint(format!("{attestor}\0{holder}").as_bytes());
        name.truncate(32);
        Self(name)
    }

    /// As read from the database, a certificate's serial, or what an operator has typed.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LineageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a lineage gets no certificate. Safe to show to the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineageError {
    /// Seen now: this is the alarm.
    #[error(
        "the certificate {serial} has been renewed with another key before; its lineage {lineage} is frozen until an operator has looked at it"
    )]
    SecondSuccessor {
        serial: String,
        lineage: LineageName,
    },
    /// Its holder has proven anew who it is since, and got another. No alarm: an old process may end beside its successor.
    #[error(
        "the certificate {serial} is not renewed: its lineage {lineage} has had a certificate issued anew since; prove again who you are"
    )]
    Superseded {
        serial: String,
        lineage: LineageName,
    },
    #[error("the lineage {lineage} is frozen until an operator has looked at it")]
    Frozen { lineage: LineageName },
    #[error("the {target} is revoked")]
    Revoked { target: Target },
    /// Of a database that was set back, or signed by someone who has stolen the CA's key.
    #[error("expected a certificate that this CA has on record, found {serial}")]
    Unknown { serial: String },
    /// Of a database that was set back since it was looked up.
    #[error("expected an enrolment key that is registered for this SPIFFE ID, found {key}")]
    NotEnrolled { key: KeyHash },
}
