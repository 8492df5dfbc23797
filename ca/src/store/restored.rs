//! What happens to a database that was set back to an older state on purpose.

use super::changes::{self, Topic};
use super::rollback::{State, give_up, void_tokens};
use super::session::Transaction;
use super::sql::{self, DatabaseError, Row, values};
use super::writer::Batch;
use super::{Database, StoreError, read_of_any_release, revocation, unix_seconds, write};
use crate::config::MAX_TTL;
use crate::ledger::{Event, Head};
use std::time::SystemTime;

/// What was revoked by a later state of the same CA.
#[derive(Debug, Default)]
pub(crate) struct Revoked {
    /// The version of the list; 0 when it is not known.
    version: u64,
    certificates: Vec<Certificate>,
    barred: Vec<Barred>,
    frozen: Vec<Frozen>,
}

#[derive(Debug)]
struct Certificate {
    serial: String,
    /// Empty when it is not known.
    spiffe_id: String,
    not_after: i64,
    revoked_at: i64,
    reason: String,
}

#[derive(Debug)]
struct Barred {
    kind: String,
    name: String,
    since: i64,
    lifted_at: Option<i64>,
    reason: String,
}

#[derive(Debug)]
struct Frozen {
    lineage: String,
    spiffe_id: String,
    serial: String,
    successor: String,
    key_hash: String,
    frozen_at: i64,
}

/// A serial that a CRL names, when it was revoked (seconds since the Unix epoch), and why.
pub(crate) type Listed = (String, i64, &'static str);

impl Revoked {
    /// What the database of the CA with this renewal secret says, which is drawn when a CA is made, and nobody else's. `None` when
    /// it is another CA's. It may be of an earlier release.
    pub(crate) fn of(database: &Database, secret: &[u8; 32]) -> Result<Option<Self>, StoreError> {
        read_of_any_release(database, |transaction| {
            let theirs = transaction.only("SELECT secret FROM renewal", &[])?;
            if theirs.get::<[u8; 32]>(0)? != *secret {
                return Ok(None);
            }
            let certificates = transaction.query(
                "SELECT serial, spiffe_id, not_after, revoked_at, reason FROM revocation",
                &[],
            )?;
            let barred = transaction.query(
                "SELECT kind, name, since, lifted_at, reason FROM barred",
                &[],
            )?;
            let frozen = transaction.query(
                "SELECT lineage, spiffe_id, serial, successor, key_hash, frozen_at FROM frozen_lineage",
                &[],
            )?;
            Ok(Some(Self {
                version: changes::version(transaction, Topic::Revocations)?,
                certificates: certificates
                    .iter()
                    .map(Certificate::of)
                    .collect::<sql::Result<_>>()?,
                barred: barred.iter().map(Barred::of).collect::<sql::Result<_>>()?,
                frozen: frozen.iter().map(Frozen::of).collect::<sql::Result<_>>()?,
            }))
        })
    }

    /// What a CRL says: certificates alone. When one of them ends that was issued after the backup is not known, nor whose it
    /// is; it ends a longest life after it was revoked at the latest.
    pub(crate) fn listed(listed: Vec<Listed>) -> Self {
        let longest = i64::try_from(MAX_TTL.as_secs()).unwrap_or(i64::MAX);
        let certificate = |(serial, revoked_at, reason): Listed| Certificate {
            serial,
            spiffe_id: String::new(),
            not_after: revoked_at.saturating_add(longest),
            revoked_at,
            reason: reason.to_owned(),
        };
        Self {
            certificates: listed.into_iter().map(certificate).collect(),
            ..Self::default()
        }
    }

    /// Whether the authority of this name, the hash of its key, is revoked.
    pub(crate) fn bars_authority(&self, name: &str) -> bool {
        let mut barred = self.barred.iter();
        barred.any(|barred| barred.kind == "authority" && barred.name == name)
    }

    /// Gives how many revocations and how many frozen lineages are new. It matters neither which of the two states is later nor
    /// whether somebody has served from this one meanwhile: nothing that either has is taken back.
    fn merge(&self, batch: &mut Batch<'_, '_>) -> sql::Result<(u64, u64)> {
        let (mut revocations, mut frozen) = (0, 0);
        for certificate in &self.certificates {
            revocations += certificate.insert(batch)?;
        }
        for barred in &self.barred {
            revocations += barred.insert(batch)?;
        }
        for lineage in &self.frozen {
            frozen += lineage.insert(batch)?;
        }
        Ok((revocations, frozen))
    }
}

impl Certificate {
    fn of(row: &Row) -> sql::Result<Self> {
        Ok(Self {
            serial: row.get(0)?,
            spiffe_id: row.get(1)?,
            not_after: row.get(2)?,
            revoked_at: row.get(3)?,
            reason: row.get(4)?,
        })
    }

    fn insert(&self, transaction: &mut Transaction<'_>) -> sql::Result<u64> {
        let sql = "SELECT spiffe_id, not_after FROM certificate WHERE serial = $1";
        let (spiffe_id, not_after) = match transaction.first(sql, values![&self.serial])? {
            Some(known) => (known.get(0)?, known.get(1)?),
            None => (self.spiffe_id.clone(), self.not_after),
        };
        transaction.execute(
            "INSERT INTO revocation (serial, spiffe_id, not_after, revoked_at, reason)
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (serial) DO NOTHING",
            values![
                &self.serial,
                &spiffe_id,
                not_after,
                self.revoked_at,
                &self.reason
            ],
        )
    }
}

impl Barred {
    fn of(row: &Row) -> sql::Result<Self> {
        Ok(Self {
            kind: row.get(0)?,
            name: row.get(1)?,
            since: row.get(2)?,
            lifted_at: row.get(3)?,
            reason: row.get(4)?,
        })
    }

    /// What was said of a name last counts; of both in one second, that it is barred.
    fn insert(&self, transaction: &mut Transaction<'_>) -> sql::Result<u64> {
        transaction.execute(
            "INSERT INTO barred (kind, name, since, lifted_at, reason) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (kind, name) DO UPDATE
             SET since = excluded.since, lifted_at = excluded.lifted_at, reason = excluded.reason
             WHERE coalesce(excluded.lifted_at, excluded.since) > coalesce(barred.lifted_at, barred.since)
                 OR (coalesce(excluded.lifted_at, excluded.since) = coalesce(barred.lifted_at, barred.since)
                     AND excluded.lifted_at IS NULL AND barred.lifted_at IS NOT NULL)",
            values![
                &self.kind,
                &self.name,
                self.since,
                self.lifted_at,
                &self.reason
            ],
        )
    }
}

impl Frozen {
    fn of(row: &Row) -> sql::Result<Self> {
        Ok(Self {
            lineage: row.get(0)?,
            spiffe_id: row.get(1)?,
            serial: row.get(2)?,
            successor: row.get(3)?,
            key_hash: row.get(4)?,
            frozen_at: row.get(5)?,
        })
    }

    fn insert(&self, transaction: &mut Transaction<'_>) -> sql::Result<u64> {
        transaction.execute(
            "INSERT INTO frozen_lineage (lineage, spiffe_id, serial, successor, key_hash, frozen_at)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (lineage) DO NOTHING",
            values![
                &self.lineage,
                &self.spiffe_id,
                &self.serial,
                &self.successor,
                &self.key_hash,
                self.frozen_at
            ],
        )
    }
}

/// How a database is to go on from an older state.
pub(crate) struct Restoration {
    pub(crate) revoked: Vec<Revoked>,
    /// Heads that were signed before count no more.
    pub(crate) accept_rollback: bool,
}

/// What that has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settled {
    /// The last record of that state.
    pub(crate) seq: i64,
    pub(crate) tokens: u64,
    pub(crate) revocations: u64,
    pub(crate) frozen: u64,
}

/// Takes what was revoked since into the list, whose version is then later than any before, and what was frozen; voids join tokens that were not
/// used by then, as they may have been since; audited.
///
/// # Errors
/// When nothing could be recorded, or the list would be longer than sidecars take: a CRL names each certificate of a revoked
/// identity, which the CA's own records need not.
pub(crate) fn settle(
    database: &Database,
    restoration: &Restoration,
    now: SystemTime,
) -> Result<Settled, StoreError> {
    write(database, |transaction| {
        let mut batch = Batch::begin(transaction, 0)?;
        let batch = &mut batch;
        // Only here does nobody write between this and what is recorded of it.
        let seq = Head::read(batch)?.seq;
        let (mut revocations, mut frozen, mut version) = (0, 0, 0);
        for revoked in &restoration.revoked {
            let merged = revoked.merge(batch)?;
            revocations += merged.0;
            frozen += merged.1;
            version = version.max(revoked.version);
        }
        if revocations > 0 {
            revocation::fits(batch)?.map_err(DatabaseError::Revoke)?;
            let later = i64::try_from(version + 1).unwrap_or(i64::MAX);
            changes::announce_from(batch, Topic::Revocations, unix_seconds(now).max(later))?;
        }
        let settled = Settled {
            seq,
            tokens: void_tokens(batch, now)?,
            revocations,
            frozen,
        };
        if restoration.accept_rollback {
            let state = State::read(batch)?;
            give_up(batch, &state, now)?;
        }
        batch.audit(
            now,
            &Event::Restored {
                seq,
                tokens: settled.tokens,
                revocations,
                frozen,
                accepted: restoration.accept_rollback,
            },
        )?;
        Ok(settled)
    })
}
