//! The CA's database: certificates, join tokens, enrolments, the trust bundle's sequence and the audit chain.
//!
//! All writes go through one thread that commits in groups: whatever is waiting goes into one transaction, which is
//! synced once; only then does any caller hear that it is recorded.

use crate::authority::Requester;
use crate::csr::KeyHash;
use crate::directory;
use crate::ledger::{Event, Head, Refusal, fingerprint};
use crate::lineage::LineageError;
use changes::Watcher;
use identity::jwt::JwtKeys;
use identity::{BundleError, Revocations, TrustBundle, TrustDomain};
use postgres::Listener;
use rustls_pki_types::CertificateDer;
use session::{Access, Session, Transaction};
use sql::values;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use writer::{Batch, Writer};

pub(crate) mod session;
pub(crate) mod sql;

mod attested;
mod changes;
mod enrolment;
mod entries;
mod jwt;
mod lineage;
mod postgres;
mod revocation;
mod schema;
mod sqlite;
mod sweep;
mod writer;

#[cfg(test)]
mod tests;

pub use changes::{State, Topic, Versions};
pub(crate) use enrolment::token_name;
pub use enrolment::{Enrolment, MAX_REFUSALS_PER_TOKEN, RedeemError, TokenGrant};
pub use entries::{Author, CreateEntryError};
pub(crate) use jwt::TokenRecord;
pub use postgres::{Postgres, PostgresError, ServerTrust};
pub use sql::DatabaseError;

/// Free space that is kept back from records of refusals: some ten thousand certificates fit.
const RESERVE_BYTES: u64 = 32 * 1024 * 1024;

/// Where the records of a CA are.
#[derive(Debug, Clone)]
pub enum Database {
    /// The file `ca.db` in the CA's directory.
    Sqlite { directory: PathBuf },
    /// For several replicas, each with a directory that has the same keys.
    Postgres(Postgres),
}

impl Database {
    /// A connection to PostgreSQL blocks its thread, which must not be one that runs tasks.
    fn on_own_thread<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, StoreError> {
        match self {
            Self::Sqlite { .. } => Ok(work()),
            Self::Postgres(_) => {
                thread::scope(|scope| scope.spawn(work).join()).map_err(|_| StoreError::Stopped)
            }
        }
    }
}

/// That of the CA in a directory, unless it was told otherwise.
impl From<&Path> for Database {
    fn from(directory: &Path) -> Self {
        Self::Sqlite {
            directory: directory.to_owned(),
        }
    }
}

impl From<&PathBuf> for Database {
    fn from(directory: &PathBuf) -> Self {
        directory.as_path().into()
    }
}

impl From<&Self> for Database {
    fn from(database: &Self) -> Self {
        database.clone()
    }
}

/// An open database. Works beside others on the same directory, in this process or another.
#[derive(Debug)]
pub struct Store {
    // Dropped in this order: the first two nudge the third.
    writer: Writer,
    _listener: Option<Listener>,
    watcher: Watcher,
}

impl Store {
    /// Opens the database of a CA made by [`crate::init`], brings it up to date, and starts the threads that write to
    /// it and follow its changes, which end when the store is dropped. Blocks meanwhile, for seconds at most.
    ///
    /// # Errors
    /// When the database is missing, does not answer, or is of another version.
    pub fn open(database: impl Into<Database>) -> Result<Self, StoreError> {
        Self::open_with_reserve(database.into(), RESERVE_BYTES)
    }

    fn open_with_reserve(database: Database, reserve_bytes: u64) -> Result<Self, StoreError> {
        let thread = |error| StoreError::Thread(Arc::new(error));
        let (watcher, nudge) = Watcher::spawn(database.clone()).map_err(thread)?;
        let listener = match &database {
            Database::Sqlite { .. } => None,
            Database::Postgres(server) => {
                Some(Listener::spawn(server.clone(), nudge.clone()).map_err(thread)?)
            }
        };
        Ok(Self {
            writer: Writer::spawn(database, reserve_bytes, nudge)?,
            _listener: listener,
            watcher,
        })
    }

    /// When the database last told what has changed.
    pub(crate) fn answered(&self) -> std::time::Instant {
        self.watcher.answered()
    }

    /// Has what has long expired leave the database from now on. For the process that serves: one that was started for a
    /// command has known its clock for too short a time to delete by it.
    pub(crate) fn sweep(&self) {
        self.writer.sweep();
    }

    /// Makes the tables of a new CA, in a directory that has no database yet or in a PostgreSQL database without one.
    pub(crate) fn create(database: &Database, new: &NewCa<'_>) -> Result<(), StoreError> {
        if let Database::Sqlite { directory } = database {
            // SQLite would make the file with the process's umask, and its log files with the mode of this one.
            directory::write_new(&directory.join(directory::DATABASE), b"")
                .map_err(|error| StoreError::Create(Arc::new(error)))?;
        }
        let made = database.on_own_thread(|| {
            let mut session = Session::connect(database, Access::Write)?;
            session.prepare()?;
            session.transaction(Access::Write, |transaction| fill(transaction, new))
        });
        made?.map_err(StoreError::cannot_record)?
    }

    /// How often what a running CA keeps in memory has changed, by whatever process or replica; seen at once when it
    /// was this store, and within a second otherwise. What is kept has to be read again when its topic has moved.
    pub fn state(&self) -> watch::Receiver<State> {
        self.watcher.state()
    }

    /// Records a certificate together with its audit record, unless its lineage forbids it: then the inner error, and no
    /// such certificate exists.
    pub(crate) async fn record_issuance(
        &self,
        certificate: CertificateRecord,
        now: SystemTime,
    ) -> Result<Result<(), LineageError>, StoreError> {
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

    /// Writes a row that says nothing, as durably as any other: whether records can be written shows only then.
    ///
    /// # Errors
    /// When it could not be written.
    pub(crate) async fn touch(&self) -> Result<(), StoreError> {
        // The value has to change: SQLite leaves a page alone that would stay as it is.
        let touch = "INSERT INTO change (topic, version) VALUES ('touched', 1)
                     ON CONFLICT (topic) DO UPDATE SET version = change.version + 1";
        self.writer
            .write(move |batch| batch.execute(touch, &[]).map(|_| ()))
            .await
    }

    /// The bundle as it is now, whoever published it.
    pub(crate) async fn bundle(&self) -> Result<TrustBundle, StoreError> {
        let stored = self.writer.write(|batch| StoredBundle::read(batch)).await?;
        stored.parse()
    }

    /// Replaces the authorities of the bundle and gives its new sequence.
    pub(crate) async fn publish_bundle(
        &self,
        bundle: TrustBundle,
        now: SystemTime,
    ) -> Result<u64, StoreError> {
        self.writer
            .write(move |batch| {
                let pem = bundle.to_pem();
                let updated = batch.only(
                    "UPDATE bundle SET sequence = sequence + 1, pem = $1 RETURNING sequence",
                    values![&pem],
                )?;
                let sequence = updated.get(0)?;
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
                batch.announce(Topic::Bundle)?;
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
    pub(crate) requester: Requester,
    /// Of the certified key.
    pub(crate) key: KeyHash,
}

impl CertificateRecord {
    fn insert(
        &self,
        batch: &mut Batch<'_, '_>,
        now: SystemTime,
    ) -> sql::Result<Result<(), LineageError>> {
        let descent = match self.descent(batch, now)? {
            Ok(descent) => descent,
            Err(refused) => return Ok(Err(refused)),
        };
        let spiffe_id = self.leaf.id.as_str();
        let not_after = unix_seconds(self.leaf.not_after);
        let audit_seq = batch.audit(
            now,
            &Event::Issued {
                serial: self.leaf.serial.clone(),
                spiffe_id: spiffe_id.to_owned(),
                not_after,
                requester: self.requester.to_string(),
                certificate: fingerprint(&self.der),
            },
        )?;
        batch.execute(
            "INSERT INTO certificate (serial, spiffe_id, not_before, not_after, renew_at, der, audit_seq)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            values![
                &self.leaf.serial,
                spiffe_id,
                self.leaf.not_before,
                not_after,
                self.renew_at,
                &self.der[..],
                audit_seq
            ],
        )?;
        if let Some(descent) = descent {
            self.insert_descent(batch, &descent)?;
        }
        self.insert_attested(batch)?;
        Ok(Ok(()))
    }
}

/// The bundle and the renewal secret, read when a CA is opened.
pub(crate) fn read_settings(database: &Database) -> Result<(TrustBundle, [u8; 32]), StoreError> {
    let (bundle, secret) = read(database, |transaction| {
        let secret = transaction
            .only("SELECT secret FROM renewal", &[])?
            .get(0)?;
        Ok((StoredBundle::read(transaction)?, secret))
    })?;
    Ok((bundle.parse()?, secret))
}

struct StoredBundle {
    trust_domain: String,
    sequence: u64,
    pem: String,
    jwt_keys: JwtKeys,
}

impl StoredBundle {
    fn read(transaction: &mut Transaction<'_>) -> sql::Result<Self> {
        let row = transaction.only("SELECT trust_domain, sequence, pem FROM bundle", &[])?;
        Ok(Self {
            trust_domain: row.get(0)?,
            sequence: row.get(1)?,
            pem: row.get(2)?,
            jwt_keys: jwt::keys(transaction)?,
        })
    }

    fn parse(self) -> Result<TrustBundle, StoreError> {
        let trust_domain = TrustDomain::parse(&self.trust_domain)
            .map_err(|_| StoreError::TrustDomain(self.trust_domain))?;
        let bundle = TrustBundle::from_pem(trust_domain, self.pem.as_bytes(), self.sequence)
            .map_err(|error| StoreError::Bundle(Arc::new(error)))?;
        Ok(bundle.with_jwt_keys(self.jwt_keys))
    }
}

/// What is revoked, read when a CA is opened.
pub(crate) fn read_revocations(database: &Database) -> Result<Revocations, StoreError> {
    read(database, revocation::list)
}

/// Reads one moment of what is committed, beside a running server.
///
/// # Errors
/// When the database cannot be read or is of another version.
pub(crate) fn read<T: Send>(
    database: &Database,
    work: impl FnOnce(&mut Transaction<'_>) -> sql::Result<T> + Send,
) -> Result<T, StoreError> {
    in_transaction(database, Access::Read, work)?.map_err(StoreError::cannot_read)?
}

/// Writes beside a running server, for administration that has no open store.
///
/// # Errors
/// When it is not recorded, or the database is of another version.
pub(crate) fn write<T: Send>(
    database: &Database,
    work: impl FnOnce(&mut Transaction<'_>) -> sql::Result<T> + Send,
) -> Result<T, StoreError> {
    in_transaction(database, Access::Write, work)?.map_err(StoreError::cannot_record)?
}

fn in_transaction<T: Send>(
    database: &Database,
    access: Access,
    work: impl FnOnce(&mut Transaction<'_>) -> sql::Result<T> + Send,
) -> Result<sql::Result<Result<T, StoreError>>, StoreError> {
    database.on_own_thread(|| {
        let mut session = Session::connect(database, access)?;
        session.transaction(access, |transaction| match schema::check(transaction)? {
            Ok(()) => work(transaction).map(Ok),
            Err(refused) => Ok(Err(refused)),
        })
    })
}

/// The end of the audit chain.
pub(crate) fn head(database: &Database) -> Result<Head, StoreError> {
    read(database, Head::read)
}

/// Waits for the turn to write, and does nothing with it.
pub(crate) fn take_turn(database: &Database) -> Result<(), StoreError> {
    let taken = database.on_own_thread(|| {
        Session::connect(database, Access::Write)?.transaction(Access::Write, |_| Ok(()))
    });
    taken?.map_err(StoreError::cannot_record)
}

/// Copies one moment of an embedded database to `file`, which must not exist, beside a running server.
pub(crate) fn snapshot(database: &Database, file: &Path) -> Result<(), StoreError> {
    let Database::Sqlite { directory } = database else {
        return Err(StoreError::Elsewhere);
    };
    sqlite::copy(directory, file).map_err(StoreError::cannot_read)
}

fn fill(transaction: &mut Transaction<'_>, new: &NewCa<'_>) -> sql::Result<Result<(), StoreError>> {
    if transaction.has_table("bundle")? {
        return Ok(Err(StoreError::Occupied));
    }
    schema::create(transaction)?;
    let (trust_domain, pem) = (new.bundle.trust_domain().as_str(), new.bundle.to_pem());
    transaction.execute(
        "INSERT INTO bundle (id, trust_domain, sequence, pem) VALUES (1, $1, $2, $3)",
        values![trust_domain, new.bundle.sequence(), &pem],
    )?;
    transaction.execute(
        "INSERT INTO renewal (id, secret) VALUES (1, $1)",
        values![&new.renewal_secret],
    )?;
    let root = new.bundle.authorities().first();
    let event = Event::Initialised {
        trust_domain: trust_domain.to_owned(),
        root: root.map_or_else(String::new, |der| fingerprint(der)),
        intermediate: fingerprint(new.intermediate),
    };
    Batch::begin(transaction, 0)?.audit(new.now, &event)?;
    writer::clock::save(transaction, unix_seconds(new.now))?;
    Ok(Ok(()))
}

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
    #[error("cannot start the CA's database writer")]
    Thread(#[source] Arc<std::io::Error>),
    #[error("the CA's records are in another server's database")]
    Elsewhere,
    #[error("the CA's database writer has stopped")]
    Stopped,
}

impl StoreError {
    pub(crate) fn cannot_read(error: DatabaseError) -> Self {
        Self::CannotRead(Arc::new(error))
    }

    fn cannot_record(error: DatabaseError) -> Self {
        Self::CannotRecord(Arc::new(error))
    }
}

pub(crate) fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
