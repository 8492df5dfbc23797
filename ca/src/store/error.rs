//! Why the database cannot be used.

use super::rollback::RolledBack;
use super::schema;
use super::sql::DatabaseError;
use identity::BundleError;
use std::sync::Arc;

/// The database cannot be used. A caller may retry: the store recovers when the cause is gone.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Disk full, read-only file system, a lock held for too long, ...
    #[error("cannot record in the CA's database")]
    CannotRecord(#[source] Arc<DatabaseError>),
    #[error("cannot read the CA's database")]
    CannotRead(#[source] Arc<DatabaseError>),
    /// Older for a reader, which does not bring it up to date; without our tables (0); or so new that it needs another
    /// program.
    #[error(
        "expected version {} of the CA's database, found {found}, which takes a program of version {oldest} or later",
        schema::VERSION
    )]
    Version { found: u32, oldest: u32 },
    #[error("expected a trust domain in the CA's database, found {0:?}")]
    TrustDomain(String),
    #[error("expected a trust bundle in the CA's database")]
    Bundle(#[source] Arc<BundleError>),
    #[error("expected a database without a CA, found one with")]
    Occupied,
    #[error("cannot make the file of the CA's database")]
    Create(#[source] Arc<std::io::Error>),
    #[error("cannot start a thread for the CA's database")]
    Thread(#[source] Arc<std::io::Error>),
    #[error("the CA's records are in another server's database")]
    Elsewhere,
    /// Only what issues is refused then.
    #[error(transparent)]
    RolledBack(RolledBack),
    /// This replica has not followed yet, or cannot.
    #[error("the authority {0}, which signs here, is retired or revoked")]
    IssuerDiscarded(String),
    #[error("a thread of the CA's database has stopped")]
    Stopped,
}

impl StoreError {
    pub(crate) fn cannot_read(error: DatabaseError) -> Self {
        Self::CannotRead(Arc::new(error))
    }

    pub(super) fn cannot_record(error: DatabaseError) -> Self {
        Self::CannotRecord(Arc::new(error))
    }
}
