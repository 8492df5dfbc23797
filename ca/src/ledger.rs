//! The audit chain: what the CA did, each record naming the hash of the one before it.
//!
//! A record that was changed, removed from the middle or put in between breaks the chain at a place that
//! [`verify`] names. Records cut off at the end show by the certificates they leave behind, and by the signed heads
//! (`ledger/head.rs`) that sidecars remember.

use crate::csr::KeyHash;
use crate::dns::DnsName;
use crate::store::session::Transaction;
use crate::store::sql::{self, values};
use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

mod archive;
pub(crate) mod head;
mod records;
mod verify;

#[cfg(test)]
mod tests;

pub use archive::{ArchiveError, ArchiveOptions, Segment, archive, keep_archiving};
pub use records::{Record, records};
pub use verify::{Problem, Report, verify, verify_with_archive};

/// Longer reasons are cut: a record's size must not be in a caller's hands.
const MAX_REASON_CHARS: usize = 256;

/// The refusal of a caller that had proven who it is.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Who was refused: the ID of its SVID or of its enrolment, or an attestor and what it says.
    pub caller: String,
    /// What it asked for: `issue`, `renew`, or `call` when it was not understood.
    pub operation: &'static str,
    /// One line; cut at 256 characters.
    pub reason: String,
}

/// What a record says. Stored as JSON, exactly as hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Event {
    Initialised {
        trust_domain: String,
        /// SHA-256 of the certificates.
        root: String,
        intermediate: String,
    },
    Issued {
        serial: String,
        spiffe_id: String,
        not_after: i64,
        requester: String,
        /// SHA-256 of the certificate.
        certificate: String,
        /// Its host names.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        dns_names: BTreeSet<DnsName>,
    },
    TokenCreated {
        token: String,
        spiffe_id: String,
        expires_at: i64,
    },
    Enrolled {
        token: String,
        spiffe_id: String,
        key: String,
    },
    Refused {
        caller: String,
        operation: String,
        reason: String,
    },
    BundlePublished {
        sequence: u64,
        /// SHA-256 of each authority.
        authorities: Vec<String>,
    },
    EntryCreated {
        entry: String,
        spiffe_id: String,
        selectors: Vec<String>,
        /// The administrator's identity, or `operator` for one with access to the database.
        by: String,
    },
    EntryDeleted {
        entry: String,
        spiffe_id: String,
        by: String,
    },
    /// A certificate was renewed a second time, with another key.
    LineageFrozen {
        lineage: String,
        spiffe_id: String,
        /// The certificate, and what had been issued after it.
        serial: String,
        successor: String,
        /// The second key.
        key: String,
    },
    Revoked {
        /// `certificate`, `identity`, `lineage` or `authority`.
        what: String,
        name: String,
        reason: String,
        /// How many certificates that concerned.
        certificates: u64,
    },
    RevocationLifted {
        what: String,
        name: String,
        reason: String,
    },
    LineageThawed {
        lineage: String,
        reason: String,
    },
    /// A JWT-SVID was issued.
    TokenIssued {
        /// Its claim `jti`.
        name: String,
        spiffe_id: String,
        audience: Vec<String>,
        not_after: i64,
        key: String,
    },
    /// A key that vouches for JWT-SVIDs is in the bundle from now on.
    TokenKeyPublished {
        key: String,
        not_after: i64,
    },
    /// An authority's key was made, and its certificate unless that is awaited (`state` is `requested` then).
    AuthorityPrepared {
        /// The SHA-256 of its SubjectPublicKeyInfo.
        authority: String,
        /// `root` or `intermediate`.
        role: String,
        state: String,
        certificate: Option<String>,
        /// `operator`, or `age` or `deadline` for the CA itself.
        by: String,
        /// The `CKA_ID` of keys that are forgotten here, as another takes their place, and still in a token.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left_in_token: Vec<String>,
    },
    AuthorityActivated {
        role: String,
        /// A root comes with its intermediate.
        authorities: Vec<String>,
        replaces: Vec<String>,
        by: String,
        /// What would have kept it from being done.
        despite: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left_in_token: Vec<String>,
    },
    AuthorityRetired {
        role: String,
        authorities: Vec<String>,
        by: String,
        despite: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left_in_token: Vec<String>,
    },
    /// What was prepared or requested is given up.
    AuthorityAbandoned {
        role: String,
        authorities: Vec<String>,
        by: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left_in_token: Vec<String>,
    },
    /// The rows of certificates that were issued before this and ended by then may be gone.
    Swept {
        expired_by: i64,
    },
    /// The records up to this one, with this hash, are in files.
    Archived {
        through: i64,
        hash: String,
    },
    /// A record of this number and hash, which this CA has signed, is not in the ledger: it was set back to before it.
    RollbackFound {
        seq: i64,
        hash: String,
    },
    /// What came after is given up: this head, and others that were signed by then. Join tokens that were not used here are
    /// void, as they may have been there.
    RollbackAccepted {
        seq: i64,
        hash: String,
        tokens: u64,
    },
    /// The database was made from a backup, or brought back by its server's means, with the records up to this one.
    Restored {
        seq: i64,
        /// Join tokens that were not used by then are void.
        tokens: u64,
        /// Revocations from after the backup that are in force again.
        revocations: u64,
        /// Lineages that were frozen after it and are again.
        #[serde(default, skip_serializing_if = "is_zero")]
        frozen: u64,
        /// Whether what came after was given up at once.
        accepted: bool,
    },
}

/// Records from before there was such a count stay as they are hashed.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl From<&Refusal> for Event {
    fn from(refusal: &Refusal) -> Self {
        Self::Refused {
            caller: refusal.caller.clone(),
            operation: refusal.operation.to_owned(),
            reason: refusal.reason.chars().take(MAX_REASON_CHARS).collect(),
        }
    }
}

/// The end of the chain, to which the next record is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) seq: i64,
    pub(crate) hash: [u8; 32],
}

impl Head {
    /// Before the first record.
    const START: Self = Self {
        seq: 0,
        hash: [0; 32],
    };

    pub(crate) fn read(transaction: &mut Transaction<'_>) -> sql::Result<Self> {
        let last =
            transaction.first("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1", &[])?;
        last.map_or(Ok(Self::START), |row| {
            Ok(Self {
                seq: row.get(0)?,
                hash: row.get(1)?,
            })
        })
    }

    /// Writes `event` as the next record. The transaction is one for writing, in which `self` was read.
    pub(crate) fn append(
        &mut self,
        transaction: &mut Transaction<'_>,
        now: SystemTime,
        event: &Event,
    ) -> sql::Result<i64> {
        let seq = self.seq + 1;
        let time_ms = unix_ms(now);
        let event = serde_json::to_string(event).expect("an event is strings and numbers");
        let hash = record_hash(seq, time_ms, &self.hash, &event);
        transaction.write(
            "INSERT INTO audit (seq, time_ms, event, previous, hash) VALUES ($1, $2, $3, $4, $5)",
            values![seq, time_ms, &event, &self.hash, &hash],
        )?;
        *self = Self { seq, hash };
        Ok(seq)
    }
}

/// SHA-256 over fixed-width fields and then the text, so that no two records have the same input.
fn record_hash(seq: i64, time_ms: i64, previous: &[u8; 32], event: &str) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(b"tipstaff audit v1\0");
    context.update(&seq.to_be_bytes());
    context.update(&time_ms.to_be_bytes());
    context.update(previous);
    context.update(event.as_bytes());
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// SHA-256 in lower-case hexadecimal, as records name certificates, keys and tokens.
pub(crate) fn fingerprint(bytes: &[u8]) -> String {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&SHA256, bytes).as_ref());
    KeyHash(hash).to_string()
}

pub(crate) fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
