//! The CA's database: certificates, join tokens, enrolments, the trust bundle's sequence and the audit chain.
//!
//! All writes go through one thread that commits in groups: whatever is waiting goes into one transaction, which is
//! synced once; only then does any caller hear that it is recorded.

use crate::csr::{KeyHash, PublicKey};
use crate::ledger::Refusal;
use crate::token::JoinToken;
use identity::SpiffeId;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// An open database. Works beside others on the same directory, in this process or another.
#[derive(Debug)]
pub struct Store {}

impl Store {
    /// Opens the database in a CA directory made by [`crate::init`] and starts its writer thread, which ends when the
    /// store is dropped.
    ///
    /// # Errors
    /// When the database is missing, unreadable or of another version.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        unimplemented!("{directory:?}")
    }

    /// Registers a token that lets one enrolment key be registered for `grant.spiffe_id`. Audited.
    ///
    /// Whether the ID may be given to a workload at all is checked by [`crate::Authority::issue`]; the command line
    /// checks it with [`crate::authority::check_workload_id`] to tell the operator early.
    pub async fn create_token(
        &self,
        token: &JoinToken,
        grant: TokenGrant,
    ) -> Result<(), StoreError> {
        unimplemented!("{token:?} {grant:?}")
    }

    /// Binds `token` to `key`, in one transaction: of two keys that present a token, one gets it.
    ///
    /// The same key may redeem again (its reply may have been lost), even after the token's expiry. The inner refusal
    /// of a token that exists is audited, at most [`MAX_REFUSALS_PER_TOKEN`] times per token; that of an unknown
    /// token is not, as anyone can make those up.
    ///
    /// # Errors
    /// The outer error says that nothing could be recorded; then nothing is bound either, and the caller may retry.
    pub async fn redeem(
        &self,
        token: &JoinToken,
        asked: &SpiffeId,
        key: &PublicKey,
        now: SystemTime,
    ) -> Result<Result<Enrolment, RedeemError>, StoreError> {
        unimplemented!("{token:?} {asked} {key:?} {now:?}")
    }

    /// The enrolment of a key, if it has one. The caller must have seen a proof of possession.
    pub async fn enrolment(&self, key: &KeyHash) -> Result<Option<Enrolment>, StoreError> {
        unimplemented!("{key}")
    }

    /// Audits the refusal of a caller that had proven who it is. Refusals before that are only counted, never stored.
    pub async fn record_refusal(
        &self,
        refusal: Refusal,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        unimplemented!("{refusal:?} {now:?}")
    }
}

/// How many refusals of one genuine token are audited: the holder of a used token must not be able to fill the disk.
pub const MAX_REFUSALS_PER_TOKEN: u32 = 8;

/// What a join token gives to the first key that redeems it.
#[derive(Debug, Clone)]
pub struct TokenGrant {
    pub spiffe_id: SpiffeId,
    pub created_at: SystemTime,
    pub expires_at: SystemTime,
    /// The life of the certificates this enrolment gets when it asks for none.
    pub ttl: Option<Duration>,
}

/// A key that may ask for certificates with one SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    pub key: KeyHash,
    pub spiffe_id: SpiffeId,
    /// The life to use when the caller asks for none.
    pub ttl: Option<Duration>,
}

/// Why a token gives nothing. Safe to show to the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedeemError {
    #[error("expected a join token of this CA, found an unknown one")]
    Unknown,
    #[error("expected a join token that is still valid, found one that has expired")]
    Expired,
    #[error("expected an unused join token, found one that another enrolment key has used")]
    UsedByAnotherKey,
    #[error("the join token is for another SPIFFE ID than {asked}")]
    OtherId { asked: SpiffeId },
    #[error("the enrolment key is registered for another SPIFFE ID")]
    KeyOfAnotherId,
}

/// The database cannot be used. The caller may retry: the store recovers when the cause is gone.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Disk full, read-only file system, a lock held for too long, ...
    #[error("cannot record in the CA's database")]
    CannotRecord(#[source] Arc<rusqlite::Error>),
    #[error("cannot read the CA's database")]
    CannotRead(#[source] Arc<rusqlite::Error>),
    #[error("the CA's database writer has stopped")]
    Stopped,
}

/// The right to serve a CA directory: of several processes, one has it. Given back on drop.
#[derive(Debug)]
pub struct ServeLock {}

impl ServeLock {
    /// # Errors
    /// When another process serves this directory, or the lock file cannot be made.
    pub fn acquire(directory: &Path) -> Result<Self, ServeLockError> {
        unimplemented!("{directory:?}")
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ServeLockError {
    #[error("another process already serves this CA directory")]
    Held,
    #[error("cannot use the lock file of the CA directory")]
    Io(#[source] std::io::Error),
}
