//! What has long expired leaves the database, so that its size follows what is alive. The audit chain stays whole.

use super::session::{Access, Session, Transaction};
use super::sql::{self, values};
use super::writer::Batch;
use super::{schema, unix_seconds};
use crate::config::MAX_TTL;
use crate::ledger::Event;
use std::time::{Duration, SystemTime};

#[cfg(test)]
mod tests;

/// How long a row outlives its certificate: a clock that is ahead by less takes no row of a valid one.
pub(crate) const GRACE: Duration = Duration::from_secs(60 * 60);
/// Between one sweep and the next, as each leaves an audit record.
const INTERVAL: Duration = Duration::from_secs(15 * 60);
/// A copied token is recognised as such, and audited, for this long after it expired; later it is merely unknown.
const TOKEN_GRACE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Rows in one transaction: it holds up whoever waits behind it for some milliseconds.
const MAX_ROWS: u64 = 1000;

/// Certificates that ended by $1 and are no longer needed. As long as an older one of the lineage could be renewed, what came
/// after it is what says no, however short its own life was.
macro_rules! forgettable {
    () => {
        "certificate WHERE not_after <= $1 AND NOT EXISTS
             (SELECT 1 FROM descent AS own JOIN descent AS other ON other.lineage = own.lineage
              JOIN certificate AS older ON older.serial = other.serial
              WHERE own.serial = certificate.serial
                  AND older.audit_seq < certificate.audit_seq AND older.not_after > $1)"
    };
}

/// How far the sweep has come. No row goes before the record that announces it, and the first go with it: a process that
/// lives for one certificate must not only announce.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sweep {
    /// Certificates that ended by then may go: the time in the last record, in seconds since the Unix epoch.
    expired_by: i64,
    /// There may be more of them.
    unfinished: bool,
}

impl Sweep {
    /// One transaction of the sweep, if one is due; gives whether another is. A failure changes nothing.
    pub(super) fn step(&mut self, session: &mut Session, now: SystemTime) -> sql::Result<bool> {
        let expired_by = before(now, GRACE);
        let due = expired_by.abs_diff(self.expired_by) >= INTERVAL.as_secs();
        if !due && !self.unfinished {
            return Ok(false);
        }
        let present = *self;
        *self = session.transaction(Access::Write, |transaction| {
            schema::require(transaction)?;
            let mut next = present;
            if !present.unfinished {
                next = Self::begin(transaction, expired_by, now)?;
            }
            if next.unfinished {
                next.unfinished = next.remove(transaction)? == MAX_ROWS;
            }
            Ok(next)
        })?;
        Ok(self.unfinished)
    }

    /// Announces the sweep in the audit chain, if there is anything to sweep.
    fn begin(
        transaction: &mut Transaction<'_>,
        expired_by: i64,
        now: SystemTime,
    ) -> sql::Result<Self> {
        transaction.execute(
            "DELETE FROM join_token WHERE expires_at <= $1",
            values![before(now, TOKEN_GRACE)],
        )?;
        transaction.execute(
            "DELETE FROM revocation WHERE not_after <= $1",
            values![expired_by],
        )?;
        // By then the last certificate from before has ended.
        transaction.execute(
            "DELETE FROM barred WHERE lifted_at <= $1",
            values![before(now, MAX_TTL + GRACE)],
        )?;
        let found = transaction.first(
            concat!("SELECT 1 FROM ", forgettable!(), " LIMIT 1"),
            values![expired_by],
        )?;
        if found.is_some() {
            Batch::begin(transaction, 0)?.audit(now, &Event::Swept { expired_by })?;
        }
        Ok(Self {
            expired_by,
            unfinished: found.is_some(),
        })
    }

    fn remove(&self, transaction: &mut Transaction<'_>) -> sql::Result<u64> {
        transaction.execute(
            concat!(
                "DELETE FROM certificate WHERE audit_seq IN (SELECT audit_seq FROM ",
                forgettable!(),
                " LIMIT $2)"
            ),
            values![self.expired_by, MAX_ROWS],
        )
    }
}

/// The time that lies `ago` before `now`, in seconds since the Unix epoch.
fn before(now: SystemTime, ago: Duration) -> i64 {
    unix_seconds(now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH))
}
