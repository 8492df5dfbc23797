//! Whether the ledger was set back to an older state: told by the heads that this CA has signed and sidecars bring back.
//!
//! One that the ledger does not lead to stops every issuance, in the transaction that would record it, until the operator
//! accepts it. Each acceptance begins a generation of the ledger, and heads of those before it count no more. What tells them
//! apart is the number that stands in the head, and no clock.

use super::changes::Topic;
use super::session::Transaction;
use super::sql::{self, values};
use super::writer::Batch;
use super::{Store, StoreError, unix_seconds};
use crate::csr::KeyHash;
use crate::ledger::head::Mark;
use crate::ledger::{Event, Head, unix_ms};
use std::time::SystemTime;

#[cfg(test)]
mod tests;

/// A head that this CA has signed and its ledger does not lead to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the ledger was set back: this CA has signed record {seq} with hash {hash}, which is not in it; nothing is issued until --accept-rollback {seq}"
)]
pub struct RolledBack {
    pub seq: i64,
    pub hash: KeyHash,
}

/// What a head says of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It leads there, as far as can be told: old records may be in files.
    OnRecord,
    /// It does not, and that was accepted.
    GivenUp,
    Lost(RolledBack),
}

/// What was to be accepted is not what was lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {}, the last record that is known to be lost, found {found}", lost.seq)]
pub struct NotLost {
    pub lost: RolledBack,
    pub found: i64,
}

/// The row.
pub(super) struct State {
    accepted_ms: i64,
    lost: Option<Lost>,
}

/// Of all lost heads that were shown the one that was furthest.
struct Lost {
    head: Head,
    accepted_ms: i64,
}

impl State {
    pub(super) fn read(transaction: &mut Transaction<'_>) -> sql::Result<Self> {
        let row = transaction.only(
            "SELECT accepted_ms, lost_seq, lost_hash, lost_ms FROM rollback",
            &[],
        )?;
        let (seq, hash, accepted_ms) = (row.get(1)?, row.get(2)?, row.get(3)?);
        let head = Option::zip(seq, hash).map(|(seq, hash)| Head { seq, hash });
        let lost = |(head, accepted_ms)| Lost { head, accepted_ms };
        Ok(Self {
            accepted_ms: row.get(0)?,
            lost: head.zip(accepted_ms).map(lost),
        })
    }
}

impl From<Head> for RolledBack {
    fn from(lost: Head) -> Self {
        Self {
            seq: lost.seq,
            hash: KeyHash(lost.hash),
        }
    }
}

impl Store {
    /// As [`super::Writer::write`], for what must not be recorded in a ledger that was set back.
    pub(super) async fn write_unless_rolled_back<T, F>(&self, operation: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Batch<'_, '_>) -> sql::Result<T> + Send + 'static,
    {
        self.writer
            .write(move |batch| match batch.rolled_back()? {
                Some(lost) => Ok(Err(StoreError::RolledBack(lost))),
                None => operation(batch).map(Ok),
            })
            .await?
    }

    /// Why nothing is issued, if the ledger is known to have been set back.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn rolled_back(&self) -> Result<Option<RolledBack>, StoreError> {
        self.writer.write(|batch| batch.rolled_back()).await
    }

    /// Where the ledger ends now, to be signed.
    pub(crate) async fn mark(&self, now: SystemTime) -> Result<Mark, StoreError> {
        self.writer
            .write(move |batch| {
                let accepted_ms = State::read(batch)?.accepted_ms;
                Ok(Mark {
                    head: Head::read(batch)?,
                    accepted_ms,
                    signed_ms: unix_ms(now),
                })
            })
            .await
    }

    /// Holds a head that this CA has signed against the ledger. One that is lost is written down, audited and stops issuance.
    pub(crate) async fn examine(&self, mark: Mark, now: SystemTime) -> Result<Heard, StoreError> {
        self.writer
            .write(move |batch| examine(batch, &mark, now))
            .await
    }

    /// Gives up what came after a state that the ledger was set back to, so that issuance goes on: audited; join tokens that
    /// are not used are void; the trust bundle gets a sequence that is higher than any before, or sidecars would refuse it, and
    /// which bundle a sidecar had counts no more. `seq` has to be that of [`RolledBack`], so that nothing is accepted that nobody
    /// has looked at. Gives what was lost; `None`, and nothing changes, when nothing is known to be.
    ///
    /// # Errors
    /// The outer error says that nothing could be recorded, the inner one that something else was lost.
    pub async fn accept_rollback(
        &self,
        seq: i64,
        now: SystemTime,
    ) -> Result<Result<Option<RolledBack>, NotLost>, StoreError> {
        self.writer
            .write(move |batch| {
                let state = State::read(batch)?;
                let Some(lost) = state.lost.as_ref().map(|lost| RolledBack::from(lost.head)) else {
                    return Ok(Ok(None));
                };
                if lost.seq != seq {
                    return Ok(Err(NotLost { lost, found: seq }));
                }
                give_up(batch, &state, now)?;
                let tokens = void_tokens(batch, now)?;
                batch.audit(
                    now,
                    &Event::RollbackAccepted {
                        seq: lost.seq,
                        hash: lost.hash.to_string(),
                        tokens,
                    },
                )?;
                Ok(Ok(Some(lost)))
            })
            .await
    }
}

impl Batch<'_, '_> {
    /// Why nothing may be issued, read once for all that are in the group.
    fn rolled_back(&mut self) -> sql::Result<Option<RolledBack>> {
        if let Some(known) = &self.rolled_back {
            return Ok(known.clone());
        }
        let lost = State::read(self)?.lost;
        let found = lost.map(|lost| RolledBack::from(lost.head));
        self.rolled_back = Some(found.clone());
        Ok(found)
    }
}

fn examine(batch: &mut Batch<'_, '_>, mark: &Mark, now: SystemTime) -> sql::Result<Heard> {
    let state = State::read(batch)?;
    if mark.accepted_ms < state.accepted_ms {
        return Ok(Heard::GivenUp);
    }
    // One of a later generation: the acceptance itself is what was lost.
    if mark.accepted_ms == state.accepted_ms && leads_to(batch, &mark.head)? {
        return Ok(Heard::OnRecord);
    }
    if state.lost.is_none() {
        let (seq, hash) = (mark.head.seq, KeyHash(mark.head.hash).to_string());
        batch.audit(now, &Event::RollbackFound { seq, hash })?;
    }
    let reach = |accepted_ms, head: Head| (accepted_ms, head.seq);
    match state.lost {
        Some(known)
            if reach(known.accepted_ms, known.head) >= reach(mark.accepted_ms, mark.head) =>
        {
            Ok(Heard::Lost(known.head.into()))
        }
        _ => {
            batch.execute(
                "UPDATE rollback SET lost_seq = $1, lost_hash = $2, lost_ms = $3",
                values![mark.head.seq, &mark.head.hash, mark.accepted_ms],
            )?;
            batch.rolled_back = None;
            Ok(Heard::Lost(mark.head.into()))
        }
    }
}

/// Whether the ledger has this very record, or has moved it to a file.
pub(super) fn leads_to(transaction: &mut Transaction<'_>, head: &Head) -> sql::Result<bool> {
    let record = transaction.first("SELECT hash FROM audit WHERE seq = $1", values![head.seq])?;
    if let Some(record) = record {
        return Ok(record.get::<[u8; 32]>(0)? == head.hash);
    }
    let first = transaction.only("SELECT coalesce(min(seq), 0) FROM audit", &[])?;
    Ok(head.seq < first.get(0)?)
}

/// Begins a generation that is later than that of any head which was shown: no other counts any more.
pub(super) fn give_up(
    batch: &mut Batch<'_, '_>,
    state: &State,
    now: SystemTime,
) -> sql::Result<()> {
    let lost_ms = state.lost.as_ref().map_or(0, |lost| lost.accepted_ms);
    let accepted_ms = unix_ms(now)
        .max(lost_ms.saturating_add(1))
        .max(state.accepted_ms.saturating_add(1));
    batch.execute(
        "UPDATE rollback SET accepted_ms = $1, lost_seq = NULL, lost_hash = NULL, lost_ms = NULL",
        values![accepted_ms],
    )?;
    batch.rolled_back = None;
    publish_anew(batch, now)
}

/// The trust bundle as it is, under a sequence that no lost one had, and known to no sidecar yet: what they had may have been
/// another of the same sequence.
fn publish_anew(batch: &mut Batch<'_, '_>, now: SystemTime) -> sql::Result<()> {
    // No lower than the time, as it is not known which sequences were given since.
    batch.execute(
        "UPDATE bundle SET sequence = sequence + 1 WHERE sequence >= $1",
        values![now],
    )?;
    batch.execute(
        "UPDATE bundle SET sequence = $1 WHERE sequence < $1",
        values![now],
    )?;
    // Who said so once is one that says so: 0 would be a certificate that nobody waits for.
    batch.execute(
        "UPDATE descent SET acknowledged = 1 WHERE acknowledged > 1",
        &[],
    )?;
    batch.execute(
        "UPDATE authority SET sequence = (SELECT sequence FROM bundle)
         WHERE role = 'root' AND state IN ('prepared', 'active', 'retiring')",
        &[],
    )?;
    batch.announce(Topic::Authorities)?;
    batch.announce(Topic::Bundle)
}

/// A token that is not used here may have been used in what was lost. Gives how many that concerns.
pub(super) fn void_tokens(transaction: &mut Transaction<'_>, now: SystemTime) -> sql::Result<u64> {
    // Expired rather than gone, so that one that is tried is recognised.
    transaction.execute(
        "UPDATE join_token SET expires_at = $1 WHERE enrolled_key IS NULL AND expires_at > $1",
        values![unix_seconds(now)],
    )
}
