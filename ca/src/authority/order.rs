//! What is asked of the authority, on what ground, and what it gives.

use crate::csr::{KeyHash, PublicKey};
use crate::dns::DnsName;
use identity::{SpiffeId, Svid};
use rustls_pki_types::CertificateDer;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

/// What to issue, decided by the caller's attestation.
#[derive(Debug, Clone)]
pub struct Request {
    pub id: SpiffeId,
    /// Host names to have beside it, at most [`crate::dns::MAX_DNS_NAMES`]. None of them may be the CA's own.
    pub dns_names: BTreeSet<DnsName>,
    pub public_key: PublicKey,
    /// Clamped to what the CA allows; `None` is the default.
    pub ttl: Option<Duration>,
    /// When what the caller has shown ends, which no certificate outlives.
    pub until: Option<SystemTime>,
    pub requester: Requester,
}

/// On what ground a certificate was asked for; goes into the audit record.
#[derive(Debug, Clone)]
pub enum Requester {
    /// An enrolment key, first registered now or earlier.
    Enrolment(KeyHash),
    /// What an attestor vouches for.
    Attested(Attested),
    /// A renewal over mTLS with the SVID that has this serial, and what was attested beside it.
    Svid {
        serial: String,
        attested: Option<Attested>,
    },
    /// The renewal, within the grace of its entry, of an expired SVID with this serial, whose key was proven.
    Expired { serial: String },
    /// `tipstaff ca issue`.
    Operator,
    /// The CA itself, for its server certificate.
    Ca,
}

/// Who was vouched for, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// As in [`crate::attest::Evidence`], like the others.
    pub attestor: String,
    pub subject: String,
    pub holder: Option<String>,
    /// The name of the entry that gave the identity, if it took one.
    pub entry: Option<String>,
}

impl std::fmt::Display for Attested {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.attestor, self.subject)
    }
}

impl std::fmt::Display for Requester {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Enrolment(key) => write!(f, "enrolment {key}"),
            Self::Attested(attested) => attested.fmt(f),
            Self::Svid {
                serial,
                attested: Some(attested),
            } => write!(f, "svid {serial}, {attested}"),
            Self::Svid { serial, .. } => write!(f, "svid {serial}"),
            Self::Expired { serial } => write!(f, "recovery of expired svid {serial}"),
            Self::Operator => f.write_str("operator"),
            Self::Ca => f.write_str("ca"),
        }
    }
}

/// A certificate that is recorded and may be handed out.
#[derive(Debug, Clone)]
pub struct Issued {
    pub id: SpiffeId,
    /// Leaf first, then the intermediate; the root is left out.
    pub chain: Vec<CertificateDer<'static>>,
    /// As in [`identity::Leaf`].
    pub serial: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// When to ask for the next one: a draw from the serial, uniform in 50 to 70 % of the life.
    pub renew_at: SystemTime,
}

/// The CA's own certificate and key.
#[derive(Debug)]
pub struct ServerIdentity {
    pub svid: Svid,
    pub renew_at: SystemTime,
}
