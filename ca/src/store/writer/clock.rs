//! What the sweep takes for the time.
//!
//! What ended long ago by the machine's clock goes, and a clock that is a year ahead says so of everything: certificates
//! that are alive, and what is revoked of them. So the sweep goes by the time that it had reached before, which is in the
//! database, and by how long this process has run since. Only a clock that insists is followed when it is further ahead.

use crate::store::session::{Access, Session, Transaction};
use crate::store::sql::{self, values};
use crate::store::{Store, StoreError, unix_seconds};
use std::time::{Duration, SystemTime};

#[cfg(test)]
mod tests;

/// A clock that is ahead by no more is right: a CA was off for so long, or drifts.
const AHEAD: Duration = Duration::from_secs(60 * 60);
/// So long it has to stay further ahead, in one process, before it is followed: a CA was off for long, or what it issues
/// all that time is valid nowhere yet, which does not stay unnoticed.
const INSISTS: Duration = Duration::from_secs(4 * 60 * 60);
/// Between one record of the time that was reached and the next.
const SAVE: Duration = Duration::from_secs(15 * 60);

/// Times are seconds since the Unix epoch; what counts how long this process has run does not follow the machine's clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// Where the time was when the process had run for so long.
    reached: i64,
    at: Duration,
    /// Since when the machine's clock is too far ahead.
    doubted: Option<Duration>,
    saved: i64,
}

impl Clock {
    /// As the last process has left it; at the beginning of time when there was none.
    pub(super) fn open(session: &mut Session, ran: Duration) -> sql::Result<Self> {
        let reached = session.transaction(Access::Read, reached)?;
        Ok(Self {
            reached,
            at: ran,
            doubted: None,
            saved: reached,
        })
    }

    /// The time when the process has run for `ran` and the machine says that it is `says`: never later than that.
    pub(super) fn time(
        &mut self,
        session: &mut Session,
        says: SystemTime,
        ran: Duration,
    ) -> sql::Result<SystemTime> {
        self.advance(unix_seconds(says), ran);
        if self.reached.abs_diff(self.saved) >= SAVE.as_secs() {
            let reached = self.reached;
            session.transaction(Access::Write, |transaction| save(transaction, reached))?;
            self.saved = reached;
        }
        let reached = u64::try_from(self.reached).unwrap_or_default();
        Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(reached))
    }

    fn advance(&mut self, says: i64, ran: Duration) {
        let steady = self
            .reached
            .saturating_add(seconds(ran.saturating_sub(self.at)));
        let ahead = says > steady.saturating_add(seconds(AHEAD));
        self.doubted = ahead.then(|| self.doubted.unwrap_or(ran));
        let insists = |since| ran.saturating_sub(since) >= INSISTS;
        if ahead && !self.doubted.is_some_and(insists) {
            // What was less than a second is not lost.
            if steady > self.reached {
                (self.reached, self.at) = (steady, ran);
            }
        } else {
            (self.reached, self.at, self.doubted) = (says, ran, None);
        }
    }
}

impl Store {
    /// Whether a time is too far ahead of what the sweep has reached to be true.
    pub(crate) async fn is_far_ahead(&self, says: SystemTime) -> Result<bool, StoreError> {
        let reached = self.writer.write(|batch| reached(batch)).await?;
        let unsaved = seconds(AHEAD + SAVE);
        Ok(unix_seconds(says) > reached.saturating_add(unsaved))
    }
}

/// As it was last recorded; the beginning of time when it was not.
fn reached(transaction: &mut Transaction<'_>) -> sql::Result<i64> {
    let sql = "SELECT version FROM change WHERE topic = 'swept'";
    transaction.first(sql, &[])?.map_or(Ok(0), |row| row.get(0))
}

/// Records the time that was reached. A row among the topics, where every version has room for it.
pub(in crate::store) fn save(transaction: &mut Transaction<'_>, reached: i64) -> sql::Result<()> {
    transaction.execute(
        "INSERT INTO change (topic, version) VALUES ('swept', $1)
         ON CONFLICT (topic) DO UPDATE SET version = $1",
        values![reached],
    )?;
    Ok(())
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
