//! What keeps the authority from doing its work, found out by looking: the key signs, the disk has the same one, the
//! issuer lives long enough, the ledger takes records.

use super::{Authority, OpenError, directory};
use crate::causes::in_full;
use crate::config::MAX_TTL;
use crate::csr::KeyHash;
use crate::inspect::rfc3339;
use crate::signer::SignError;
use crate::store::{RolledBack, StoreError, unix_seconds};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant, SystemTime};

#[cfg(test)]
mod tests;

/// How long the ledger may take for one record before it counts as one that takes none.
const LEDGER_DEADLINE: Duration = Duration::from_secs(5);

/// How long a look may take, besides the ledger. A signature has 5 s, and reading an encrypted key some more.
const LOOK_DEADLINE: Duration = Duration::from_secs(15);
/// How old what a CA goes by may be. Changes are asked for twice a second.
const MAX_LAG: Duration = Duration::from_secs(10);

/// What is wrong with a CA.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the issuing key does not sign: {0}")]
    Signer(SignError),
    /// The next start would fail.
    #[error("what is on disk does not make a CA: {0}")]
    Disk(String),
    /// The next start would issue with another key.
    #[error("the key in use is {in_use}, and the one on disk {on_disk}")]
    OtherKeyOnDisk { in_use: KeyHash, on_disk: KeyHash },
    /// Another replica has rotated, and what opens the keys there does not here.
    #[error("the authority that is to sign cannot be used here: {0}")]
    Authority(String),
    /// Once it is activated this replica goes on with the key it has, and issues nothing from when that is retired.
    #[error("the authority that is prepared cannot be used here: {0}")]
    Prepared(String),
    #[error("the issuer ends {ends}, sooner than a certificate of {} h", MAX_TTL.as_secs() / 3600)]
    IssuerEnds { ends: String },
    #[error("the ledger cannot be written: {0}")]
    Ledger(String),
    #[error("the ledger takes more than {} s for a record", LEDGER_DEADLINE.as_secs())]
    LedgerSlow,
    /// What was revoked or published since may be unknown here.
    #[error("what the database says is more than {} s newer than what is gone by here", MAX_LAG.as_secs())]
    Behind,
    #[error("key and files do not answer within {} s", LOOK_DEADLINE.as_secs())]
    LookSlow,
    /// What is written goes into a file that nobody will find again.
    #[error("the database file is another one than was opened, or gone")]
    LedgerMoved,
    #[error(transparent)]
    RolledBack(RolledBack),
}

impl Fault {
    /// Whether the CA cannot do its work now. What is only prepared is not needed yet, and may be given up.
    pub fn is_in_the_way(&self) -> bool {
        !matches!(self, Self::Prepared(_))
    }
}

/// What was found on disk when it last was as it should be.
#[derive(Debug, Default)]
pub(super) struct OnDisk {
    /// SHA-256 of the files, and the key they hold: reading an encrypted key costs as much as guessing a passphrase.
    files: Mutex<Option<([u8; 32], KeyHash)>>,
    /// Device and number of the database file; `None` when it is elsewhere.
    database: Option<(u64, u64)>,
    /// Held while somebody looks: one that never ends must not be joined by another every few seconds.
    looking: Mutex<()>,
}

impl OnDisk {
    pub(super) fn new(directory: &std::path::Path) -> Self {
        Self {
            files: Mutex::new(None),
            database: database_file(directory),
            looking: Mutex::default(),
        }
    }
}

fn database_file(directory: &std::path::Path) -> Option<(u64, u64)> {
    let file = directory.join(crate::directory::DATABASE);
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl Authority {
    /// Everything that is wrong now; nothing when the CA can do its work. Writes one row that says nothing.
    pub async fn faults(self: &Arc<Self>) -> Vec<Fault> {
        let this = Arc::clone(self);
        // Keys may be slow, and files are.
        let looked = tokio::task::spawn_blocking(move || this.look());
        let mut faults = match tokio::time::timeout(LOOK_DEADLINE, looked).await {
            Ok(Ok(faults)) => faults,
            Ok(Err(_)) => vec![Fault::Signer(SignError::Memory)],
            Err(_) => vec![Fault::LookSlow],
        };
        faults.extend(self.lag_fault(Instant::now()));
        if !faults.contains(&Fault::LedgerMoved) {
            faults.extend(self.ledger_fault().await);
        }
        faults
    }

    fn look(&self) -> Vec<Fault> {
        let _looking = match self.on_disk.looking.try_lock() {
            Ok(looking) => looking,
            Err(TryLockError::Poisoned(looking)) => looking.into_inner(),
            Err(TryLockError::WouldBlock) => return vec![Fault::LookSlow],
        };
        let (active, prepared) = {
            let unusable = self.unusable();
            (unusable.active.clone(), unusable.prepared.clone())
        };
        let moved = self.on_disk.database != database_file(&self.directory);
        [
            self.key_fault(),
            self.disk_fault(),
            self.issuer_fault(),
            moved.then_some(Fault::LedgerMoved),
            active.map(Fault::Authority),
            prepared.map(Fault::Prepared),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Either nobody knows whether something has changed, or what has could not be read.
    fn lag_fault(&self, now: Instant) -> Option<Fault> {
        let old = |since| now.saturating_duration_since(since) > MAX_LAG;
        let behind = old(self.store.answered()) || self.behind().is_some_and(old);
        behind.then_some(Fault::Behind)
    }

    fn key_fault(&self) -> Option<Fault> {
        self.signer().issuer.key().prove().err().map(Fault::Signer)
    }

    /// From the first rotation on the directory has what was before it, and what counts is read from the database as it changes.
    fn disk_fault(&self) -> Option<Fault> {
        if !self.signers.borrow().are_from_files {
            return None;
        }
        let in_use = self.signer().issuer.key().hash();
        let failed = |error: OpenError| Fault::Disk(in_full(&error));
        let files = match directory::fingerprint(&self.directory) {
            Ok(files) => files,
            Err(error) => return Some(failed(error)),
        };
        let known = Some((files, in_use));
        let mut last = self
            .on_disk
            .files
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *last == known {
            return None;
        }
        match directory::look(&self.directory, &self.options) {
            Err(error) => Some(failed(error)),
            Ok(parts) if parts.issuing.issuer.key().hash() != in_use => {
                Some(Fault::OtherKeyOnDisk {
                    in_use,
                    on_disk: parts.issuing.issuer.key().hash(),
                })
            }
            Ok(_) => {
                *last = known;
                None
            }
        }
    }

    fn issuer_fault(&self) -> Option<Fault> {
        let ends = self.signer().issuer_validity.not_after;
        (ends < SystemTime::now() + MAX_TTL).then(|| Fault::IssuerEnds {
            ends: rfc3339(unix_seconds(ends)),
        })
    }

    async fn ledger_fault(&self) -> Option<Fault> {
        let look = async {
            self.store.touch().await?;
            self.store.rolled_back().await
        };
        match tokio::time::timeout(LEDGER_DEADLINE, look).await {
            Ok(Ok(found)) => found.map(Fault::RolledBack),
            Ok(Err(error)) => Some(ledger_fault(&error)),
            Err(_) => Some(Fault::LedgerSlow),
        }
    }
}

fn ledger_fault(error: &StoreError) -> Fault {
    Fault::Ledger(in_full(error))
}
