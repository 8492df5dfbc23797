//! Heads of the ledger: signed for sidecars to remember, and heard of again when they renew.

use super::Authority;
use crate::ledger::head::Mark;
use crate::proto::LedgerHead;
use crate::store::{Heard, RolledBack, StoreError};
use identity::Svid;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::sync::watch;

/// Heads that are looked up no more: the fleet brings the same few.
const MAX_KNOWN: usize = 256;

/// What an open CA keeps of heads.
#[derive(Debug, Default)]
pub(super) struct Witness {
    /// The last that was signed here.
    signed: watch::Sender<Option<Arc<LedgerHead>>>,
    last: Mutex<Option<Mark>>,
    /// Hashes of heads that were on record since the last was signed. No longer: the database may be set back below a CA
    /// that runs.
    known: Mutex<HashSet<Vec<u8>>>,
}

/// What became of a head that a caller brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is in the ledger, or was given up with what came before it.
    Known,
    /// Whoever made it, it was not this CA. It says nothing.
    Unproven,
    Lost(RolledBack),
}

impl Authority {
    /// The last head that was signed, and every later one.
    pub(crate) fn ledger_head(&self) -> watch::Receiver<Option<Arc<LedgerHead>>> {
        self.witness.signed.subscribe()
    }

    /// Signs where the ledger ends, if it has grown, with the key of the server's certificate. What was signed before is held
    /// against it first: it may have been set back since.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub(crate) async fn publish_head(&self, server: &Svid) -> Result<(), StoreError> {
        let now = SystemTime::now();
        let last = *lock(&self.witness.last);
        if let Some(last) = last
            && let Heard::Lost(lost) = self.store.examine(last, now).await?
        {
            tracing::error!(%lost, "the ledger was set back while the CA was running");
        }
        lock(&self.witness.known).clear();
        let mark = self.store.mark(now).await?;
        let is_old = |last: Mark| (last.head, last.accepted_ms) == (mark.head, mark.accepted_ms);
        if last.is_some_and(is_old) {
            return Ok(());
        }
        let Some(head) = mark.sign(server) else {
            tracing::error!("the ledger's head cannot be signed with the server's key");
            return Ok(());
        };
        *lock(&self.witness.last) = Some(mark);
        self.witness.signed.send_replace(Some(Arc::new(head)));
        Ok(())
    }

    /// Holds a head that a caller brought against the ledger. One that this CA has signed and its ledger does not lead to
    /// stops issuance; whatever else it may be, it does not.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub(crate) async fn hear_of(&self, head: &LedgerHead) -> Result<Verdict, StoreError> {
        if lock(&self.witness.known).contains(&head.hash) {
            return Ok(Verdict::Known);
        }
        let bundle = Arc::clone(&self.bundle.borrow());
        let revocations = Arc::clone(&self.revocations.borrow());
        let Some(mark) = Mark::verify(head, &bundle, &revocations) else {
            return Ok(Verdict::Unproven);
        };
        match self.store.examine(mark, SystemTime::now()).await? {
            Heard::Lost(lost) => Ok(Verdict::Lost(lost)),
            Heard::OnRecord | Heard::GivenUp => {
                let mut known = lock(&self.witness.known);
                if known.len() < MAX_KNOWN {
                    known.insert(head.hash.clone());
                }
                Ok(Verdict::Known)
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
