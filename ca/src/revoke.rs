//! Revocation: what may be revoked, why, and the list that says so.
//!
//! To revoke is to write to the database (`store/revocation.rs`), from whatever process. A running CA reads the list again
//! when it has changed and sends it to every connected sidecar (`api/watch.rs`); for others it signs it as a CRL (`revoke/crl.rs`).
//! Nothing is issued to who is revoked: that is decided in the transaction that records a certificate.

pub(crate) mod crl;

use crate::csr::KeyHash;
use crate::lineage::LineageName;
use crate::profile::CaCertificate;
use identity::SpiffeId;
use identity::revoked::SignerKey;
use std::fmt;
use std::time::SystemTime;

/// Certificates on the list at most: what sidecars are sent stays below 2 MiB. Who has more to revoke names the identity or
/// the authority, which takes one entry.
pub const MAX_SERIALS: u64 = 65_536;

/// What revoked identities and authorities take on the list at most, in bytes: with the serials, what sidecars are sent stays
/// below 3 MiB, of 4 that they take. More than ten thousand identities.
pub const MAX_NAMES_BYTES: u64 = 1024 * 1024;

/// What is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One certificate. Its workload gets another with its enrolment key.
    Serial(String),
    /// All certificates of an identity, which gets no more until that is lifted.
    Identity(SpiffeId),
    /// All certificates of a lineage, which gets no more until that is lifted.
    Lineage(LineageName),
    /// The key of a CA certificate: nothing that it signed counts any more.
    Authority(SignerKey),
}

impl Target {
    /// The authority whose certificate this is; `None` when it is none of ours.
    pub fn authority(der: &[u8]) -> Option<Self> {
        Some(Self::Authority(CaCertificate::parse(der)?.key_hash()))
    }

    /// `certificate`, `identity`, `lineage` or `authority`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Serial(_) => "certificate",
            Self::Identity(_) => "identity",
            Self::Lineage(_) => "lineage",
            Self::Authority(_) => "authority",
        }
    }

    /// Which of its kind.
    pub fn name(&self) -> String {
        match self {
            Self::Serial(serial) => serial.clone(),
            Self::Identity(id) => id.to_string(),
            Self::Lineage(name) => name.to_string(),
            Self::Authority(key) => KeyHash(*key).to_string(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

/// Why, in the words of RFC 5280 section 5.3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reason {
    #[default]
    Unspecified,
    KeyCompromise,
    CaCompromise,
    AffiliationChanged,
    Superseded,
    CessationOfOperation,
    PrivilegeWithdrawn,
}

impl Reason {
    pub const ALL: [Self; 7] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::CaCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::PrivilegeWithdrawn,
    ];

    /// The word on the command line and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key-compromise",
            Self::CaCompromise => "ca-compromise",
            Self::AffiliationChanged => "affiliation-changed",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation-of-operation",
            Self::PrivilegeWithdrawn => "privilege-withdrawn",
        }
    }

    /// The reason that a word stands for.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

/// Why nothing was revoked, or nothing lifted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    #[error("expected the serial of a certificate of this CA that has not expired, found {0}")]
    UnknownSerial(String),
    #[error(
        "expected at most {MAX_SERIALS} revoked certificates that have not expired, found {found} with these: revoke the identity or the authority instead"
    )]
    TooMany { found: u64 },
    #[error(
        "expected at most {MAX_NAMES_BYTES} bytes of revoked identities and authorities, found {found} with this one: revoke the authority instead, or reinstate identities that nobody can have"
    )]
    TooManyNames { found: u64 },
    #[error("expected something that is revoked and may be had again, found {0}")]
    NotBarred(String),
}

/// A revoked certificate, as a CRL says it: each by itself.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) serial: String,
    pub(crate) revoked_at: SystemTime,
    pub(crate) reason: Reason,
}

/// The octets that hexadecimal digits stand for; `None` when they are none.
pub(crate) fn octets(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    pairs
        .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())
        .collect()
}
