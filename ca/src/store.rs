//! The CA's database: certificates, join tokens, enrolments, the trust bundle's sequence and the audit chain.
//!
//! All writes go through one thread that commits in groups: whatever is waiting goes into one transaction, which is
//! synced once; only then does any caller hear that it is recorded.

use crate::directory;
use crate::ledger::{Event, Refusal, fingerprint};
use identity::{BundleError, TrustBundle, TrustDomain};
use rusqlite::{Connection, OpenFlags, params};
use rustls_pki_types::CertificateDer;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use writer::{Batch, Writer};

mod enrolment;
mod sweep;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use enrolment::token_name;
pub use enrolment::{Enrolment, MAX_REFUSALS_PER_TOKEN, RedeemError, TokenGrant};

/// In the database's header, so that an older program refuses a newer file.
const VERSION: i32 = 1;
/// How long to wait for another process that writes, such as `token create` beside a server.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Free space that is kept back from records of refusals: some ten thousand certificates fit.
const RESERVE_BYTES: u64 = 32 * 1024 * 1024;

/// An open database. Works beside others on the same directory, in this process or another.
#[derive(Debug)]
pub struct Store {
    writer: Writer,
}

impl Store {
    /// Opens the database in a CA directory made by [`crate::init`] and starts its writer thread, which ends when the
    /// store is dropped.
    ///
    /// # Errors
    /// When the database is missing, unreadable or of another version.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::open_with_reserve(directory, RESERVE_BYTES)
    }

    fn open_with_reserve(directory: &Path, reserve_bytes: u64) -> Result<Self, StoreError> {
        let connection = connect(directory, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .map_err(StoreError::cannot_read)?;
        check_version(&connection)?;
        let writer = Writer::spawn(connection, reserve_bytes)
            .map_err(|error| StoreError::Thread(Arc::new(error)))?;
        Ok(Self { writer })
    }

    /// Makes the database of a new CA.
    pub(crate) fn create(directory: &Path, new: &NewCa<'_>) -> Result<(), StoreError> {
        // SQLite would make the file with the process's umask, and its log files with the mode of this one.
        let path = directory.join(directory::DATABASE);
        directory::write_new(&path, b"").map_err(|error| StoreError::Create(Arc::new(error)))?;
        let mut connection = connect(directory, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .map_err(StoreError::cannot_record)?;
        fill(&mut connection, new).map_err(StoreError::cannot_record)
    }

    /// Records a certificate together with its audit record.
    pub(crate) async fn record_issuance(
        &self,
        certificate: CertificateRecord,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        self.writer
            .write(move |batch| certificate.insert(batch, now))
            .await
    }

    /// Audits the refusal of a caller that had proven who it is. Refusals before that are only counted, never stored.
    /// On a disk that is almost full this goes to the log alone, as what room there is belongs to issuance.
    ///
    /// # Errors
    /// When it could not be recorded.
    pub async fn record_refusal(
        &self,
        refusal: Refusal,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        self.writer
            .write(move |batch| batch.audit_refusal(now, &Event::from(&refusal)))
            .await
    }

    /// Replaces the authorities of the bundle and gives its new sequence.
    pub(crate) async fn publish_bundle(
        &self,
        bundle: TrustBundle,
        now: SystemTime,
    ) -> Result<u64, StoreError> {
        self.writer
            .write(move |batch| {
                let sequence: u64 = batch.connection().query_row(
                    "UPDATE bundle SET sequence = sequence + 1, pem = ?1 RETURNING sequence",
                    [bundle.to_pem()],
                    |row| row.get(0),
                )?;
                let authorities = bundle
                    .authorities()
                    .iter()
                    .map(|der| fingerprint(der))
                    .collect();
                batch.audit(
                    now,
                    &Event::BundlePublished {
                        sequence,
                        authorities,
                    },
                )?;
                Ok(sequence)
            })
            .await
    }
}

/// What a new database starts with.
pub(crate) struct NewCa<'a> {
    pub(crate) bundle: &'a TrustBundle,
    pub(crate) intermediate: &'a CertificateDer<'static>,
    pub(crate) renewal_secret: [u8; 32],
    pub(crate) now: SystemTime,
}

/// A signed and checked certificate, about to be recorded.
#[derive(Debug)]
pub(crate) struct CertificateRecord {
    pub(crate) leaf: identity::Leaf,
    pub(crate) renew_at: SystemTime,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) requester: String,
}

impl CertificateRecord {
    fn insert(&self, batch: &mut Batch<'_>, now: SystemTime) -> rusqlite::Result<()> {
        let spiffe_id = self.leaf.id.as_str();
        let not_after = unix_seconds(self.leaf.not_after);
        let audit_seq = batch.audit(
            now,
            &Event::Issued {
                serial: self.leaf.serial.clone(),
                spiffe_id: spiffe_id.to_owned(),
                not_after,
                requester: self.requester.clone(),
                certificate: fingerprint(&self.der),
            },
        )?;
        batch
            .connection()
            .prepare_cached("INSERT INTO certificate VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute(params![
                self.leaf.serial,
                spiffe_id,
                unix_seconds(self.leaf.not_before),
                not_after,
                unix_seconds(self.renew_at),
                &self.der[..],
                audit_seq
            ])?;
        Ok(())
    }
}

/// The bundle and the renewal secret, read when a CA is opened.
pub(crate) fn read_settings(directory: &Path) -> Result<(TrustBundle, [u8; 32]), StoreError> {
    let connection = open_for_reading(directory)?;
    let (name, sequence, pem): (String, u64, String) = connection
        .query_row(
            "SELECT trust_domain, sequence, pem FROM bundle",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .map_err(StoreError::cannot_read)?;
    let secret = connection
        .query_row("SELECT secret FROM renewal", [], |row| row.get(0))
        .map_err(StoreError::cannot_read)?;
    let trust_domain = TrustDomain::parse(&name).map_err(|_| StoreError::TrustDomain(name))?;
    let bundle = TrustBundle::from_pem(trust_domain, pem.as_bytes(), sequence)
        .map_err(|error| StoreError::Bundle(Arc::new(error)))?;
    Ok((bundle, secret))
}

/// A connection of its own for a reader, which sees what is committed and holds nobody up.
pub(crate) fn open_for_reading(directory: &Path) -> Result<Connection, StoreError> {
    // Not opened read-only: a reader of a database with a write-ahead log may have to make the log's index.
    let connection = connect(directory, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .and_then(|connection| {
            connection.pragma_update(None, "query_only", true)?;
            Ok(connection)
        })
        .map_err(StoreError::cannot_read)?;
    check_version(&connection)?;
    Ok(connection)
}

fn connect(directory: &Path, mode: OpenFlags) -> rusqlite::Result<Connection> {
    // Each connection stays on one thread, so SQLite need not lock it.
    let flags = mode | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(directory.join(directory::DATABASE), flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(connection)
}

fn check_version(connection: &Connection) -> Result<(), StoreError> {
    let found: i32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(StoreError::cannot_read)?;
    if found != VERSION {
        return Err(StoreError::Version { found });
    }
    Ok(())
}

fn fill(connection: &mut Connection, new: &NewCa<'_>) -> rusqlite::Result<()> {
    // Kept in the file: every later connection finds the log.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(include_str!("store/schema.sql"))?;
    let trust_domain = new.bundle.trust_domain().as_str();
    transaction.execute(
        "INSERT INTO bundle VALUES (1, ?1, ?2, ?3)",
        params![trust_domain, new.bundle.sequence(), new.bundle.to_pem()],
    )?;
    transaction.execute("INSERT INTO renewal VALUES (1, ?1)", [new.renewal_secret])?;
    let mut batch = Batch::begin(&transaction, 0)?;
    batch.audit(
        new.now,
        &Event::Initialised {
            trust_domain: trust_domain.to_owned(),
            root: new
                .bundle
                .authorities()
                .first()
                .map_or_else(String::new, |der| fingerprint(der)),
            intermediate: fingerprint(new.intermediate),
        },
    )?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// The database cannot be used. A caller may retry: the store recovers when the cause is gone.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Disk full, read-only file system, a lock held for too long, ...
    #[error("cannot record in the CA's database")]
    CannotRecord(#[source] Arc<rusqlite::Error>),
    #[error("cannot read the CA's database")]
    CannotRead(#[source] Arc<rusqlite::Error>),
    #[error("expected version {VERSION} of the CA's database, found {found}")]
    Version { found: i32 },
    #[error("expected a trust domain in the CA's database, found {0:?}")]
    TrustDomain(String),
    #[error("expected a trust bundle in the CA's database")]
    Bundle(#[source] Arc<BundleError>),
    #[error("cannot make the file of the CA's database")]
    Create(#[source] Arc<std::io::Error>),
    #[error("cannot start the CA's database writer")]
    Thread(#[source] Arc<std::io::Error>),
    #[error("the CA's database writer has stopped")]
    Stopped,
}

impl StoreError {
    pub(crate) fn cannot_read(error: rusqlite::Error) -> Self {
        Self::CannotRead(Arc::new(error))
    }

    fn cannot_record(error: rusqlite::Error) -> Self {
        Self::CannotRecord(Arc::new(error))
    }
}

pub(crate) fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
