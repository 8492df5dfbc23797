//! What an open CA keeps in memory and others may change: the command line beside it, other replicas.

use super::Authority;
use crate::revoke::crl::Crl;
use crate::store::{StoreError, Topic};
use identity::Revocations;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// Between attempts to read what has changed.
const RETRY: Duration = Duration::from_secs(1);
/// Between looks at a key that is prepared and cannot be opened, doubling up to the longest: it is not needed yet, each look is
/// as good as a login, and with a driver that hangs each leaves a thread behind.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
const LONGEST_LOOK_AGAIN: Duration = Duration::from_secs(60 * 60);

/// No version: whatever was read is read again.
const AGAIN: u64 = u64::MAX;

fn later(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_LOOK_AGAIN)
}

impl Authority {
    /// What is revoked, and every later version. Its sequence never goes back.
    pub fn revocations(&self) -> watch::Receiver<Arc<Revocations>> {
        self.revocations.subscribe()
    }

    /// Reads again what other processes and replicas have changed in the database. Never returns.
    pub(crate) async fn follow(&self) {
        self.store.sweep();
        let (mut state, mut bundle_read, mut authorities_read) = (self.store.state(), 0, 0);
        let (mut pause, mut looked) = (LOOK_AGAIN, tokio::time::Instant::now());
        loop {
            let versions = state.borrow_and_update().versions;
            let mut all_read = true;
            let bundle_is_old = versions.of(Topic::Bundle) != bundle_read;
            let held = self.revocations.borrow().sequence;
            let revocations_are_old = held < versions.of(Topic::Revocations);
            let authorities_are_old = versions.of(Topic::Authorities) != authorities_read;
            if bundle_is_old || revocations_are_old || authorities_are_old {
                self.behind().get_or_insert_with(Instant::now);
            }
            if authorities_are_old {
                pause = match authorities_read {
                    AGAIN => later(pause),
                    _ => LOOK_AGAIN,
                };
                looked = tokio::time::Instant::now();
                // First: it knows in which order a root and what it signed come and go.
                all_read = self.read_authorities().await;
                authorities_read = versions.of(Topic::Authorities);
            }
            if bundle_is_old {
                all_read &= self.read_bundle().await;
                bundle_read = versions.of(Topic::Bundle);
            }
            if revocations_are_old {
                all_read &= self.read_revocations().await;
            }
            if !all_read {
                (bundle_read, authorities_read) = (0, AGAIN);
                tokio::time::sleep(RETRY).await;
                continue;
            }
            *self.behind() = None;
            let may_get_better = self.unusable().may_get_better();
            tokio::select! {
                changed = state.changed() => if changed.is_err() {
                    // The thread that finds changes has died, which was reported. What is published here itself still is.
                    std::future::pending::<()>().await;
                },
                () = tokio::time::sleep_until(looked + pause), if may_get_better => {
                    authorities_read = AGAIN;
                }
            }
        }
    }

    /// Since when something has changed that could not be read.
    pub(super) fn behind(&self) -> MutexGuard<'_, Option<Instant>> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it could be read.
    async fn read_bundle(&self) -> bool {
        match self.store.bundle().await {
            Ok(bundle) => {
                self.take_over(bundle);
                true
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "a newer trust bundle could not be read");
                false
            }
        }
    }

    /// Whether it could be read.
    async fn read_revocations(&self) -> bool {
        let list = match self.store.revocations().await {
            Ok(list) => list,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "revocations are not spread");
                return false;
            }
        };
        tracing::info!(
            sequence = list.sequence,
            certificates = list.serials.len(),
            identities = list.identities.len(),
            authorities = list.signers.len(),
            "revocations have changed"
        );
        self.revocations.send_replace(Arc::new(list));
        true
    }

    /// What is revoked as a CRL, DER, signed by the issuing authority: a new one when there is something new or the last is
    /// half an hour old.
    ///
    /// # Errors
    /// When the database or the key cannot be used.
    pub async fn crl(&self) -> Result<Vec<u8>, CrlError> {
        let mut last = self.crl.lock().await;
        let (sequence, now) = (self.revocations.borrow().sequence, SystemTime::now());
        if let Some(last) = last.as_ref()
            && last.is_current(&self.signer().name(), sequence, now)
        {
            return Ok(last.der.clone());
        }
        let read = self.store.revoked_certificates().await;
        let (sequence, entries) = read.map_err(CrlError::Store)?;
        let (signer, before) = (self.signer(), last.clone());
        let signing = tokio::task::spawn_blocking(move || {
            Crl::sign(&signer.issuer, &entries, sequence, now, before.as_ref())
        });
        let signed = signing.await.map_err(|_| CrlError::Interrupted)?;
        let signed = last.insert(signed.map_err(CrlError::Sign)?);
        Ok(signed.der.clone())
    }
}

/// Why there is no CRL.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    #[error("cannot read what is revoked")]
    Store(#[source] StoreError),
    #[error("cannot sign the list")]
    Sign(#[source] rcgen::Error),
    #[error("the signing task ended early")]
    Interrupted,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_cannot_be_opened_is_looked_at_less_and_less_often_but_once_an_hour_at_least() {
        let pauses: Vec<_> = std::iter::successors(Some(LOOK_AGAIN), |pause| Some(later(*pause)))
            .take(9)
            .map(|pause| pause.as_secs() / 60)
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }
}
