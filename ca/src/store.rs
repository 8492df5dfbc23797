//! The CA's database: certificates, join tokens, enrolments, the trust bundle's sequence and the audit chain.
//!
//! All writes go through one thread that commits in groups: whatever is waiting goes into one transaction, which is
//! synced once; only then does any caller hear that it is recorded. What a call only reads on its way is read by another
//! thread, beside the commits.

use crate::directory;
use crate::ledger::{Event, Head, Refusal, fingerprint};
use changes::Watcher;
use identity::{Revocations, TrustBundle};
use postgres::Listener;
use reader::Reader;
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

pub(crate) mod acknowledged;
mod attested;
mod authorities;
mod bundle;
mod certificate;
mod changes;
mod enrolment;
mod entries;
mod error;
mod jwt;
mod lineage;
mod postgres;
mod reader;
mod restored;
mod revocation;
mod rollback;
mod schema;
mod sqlite;
mod sweep;
mod writer;

#[cfg(test)]
mod tests;

pub use authorities::Terms;
pub(crate) use authorities::{New, can_activate, can_retire, generations, read_generations};
pub(crate) use bundle::read_settings;
pub(crate) use certificate::{CertificateRecord, still_valid};
pub use changes::{State, Topic, Versions};
pub(crate) use enrolment::token_name;
pub use enrolment::{Enrolment, MAX_REFUSALS_PER_TOKEN, RedeemError, TokenGrant};
pub use entries::{Author, CreateEntryError};
pub use error::StoreError;
pub(crate) use jwt::TokenRecord;
pub use postgres::{Postgres, PostgresError, ServerTrust};
pub(crate) use restored::{Listed, Restoration, Revoked, settle};
pub(crate) use rollback::Heard;
pub use rollback::{NotLost, RolledBack};
#[cfg(test)]
pub(crate) use schema::{VERSION as NEWEST, older::set_back};
pub use sql::DatabaseError;
pub(crate) use sweep::GRACE as EXPIRED_ROWS_KEPT;

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
    // Dropped in this order: the writer and the listener nudge the watcher.
    writer: Writer,
    reader: Reader,
    _listener: Option<Listener>,
    watcher: Watcher,
}

impl Store {
    /// Opens the database of a CA made by [`crate::init`], brings it up to date, and starts the threads that write to
    /// it, read from it and follow its changes, which end when the store is dropped. Blocks meanwhile, for seconds at most.
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
            // First, as it brings an older database up to date.
            writer: Writer::spawn(database.clone(), reserve_bytes, nudge)?,
            reader: Reader::spawn(database).map_err(thread)?,
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
}

/// What a new database starts with.
pub(crate) struct NewCa<'a> {
    pub(crate) bundle: &'a TrustBundle,
    pub(crate) intermediate: &'a CertificateDer<'static>,
    pub(crate) renewal_secret: [u8; 32],
    pub(crate) now: SystemTime,
}

impl NewCa<'_> {
    fn initialised(&self) -> Event {
        let root = self.bundle.authorities().first();
        Event::Initialised {
            trust_domain: self.bundle.trust_domain().to_string(),
            root: root.map_or_else(String::new, |der| fingerprint(der)),
            intermediate: fingerprint(self.intermediate),
        }
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

/// The same for tasks, which it holds up no thread of.
///
/// # Errors
/// As [`read`].
pub(crate) async fn read_soon<T: Send + 'static>(
    database: &Database,
    work: impl FnOnce(&mut Transaction<'_>) -> sql::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let database = database.clone();
    let reading = tokio::task::spawn_blocking(move || read(&database, work));
    reading.await.map_err(|_| StoreError::Stopped)?
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

/// Whether the audit chain leads to `head`, as far as can be told: old records may be in files.
pub(crate) fn has_head(database: &Database, head: Head) -> Result<bool, StoreError> {
    read(database, |transaction| {
        rollback::leads_to(transaction, &head)
    })
}

/// Whether a database is of an earlier release, which [`read`] and [`write`] refuse.
pub(crate) fn is_older(database: &Database) -> Result<bool, StoreError> {
    let found = database.on_own_thread(|| {
        Session::connect(database, Access::Read)?.transaction(Access::Read, schema::is_older)
    });
    found?.map_err(StoreError::cannot_read)
}

/// As [`read`], of a database that may be of an earlier release, and then of one that nobody uses: it is read as it would be if it
/// were brought up to date, and left as it is.
pub(crate) fn read_of_any_release<T: Send>(
    database: &Database,
    work: impl FnOnce(&mut Transaction<'_>) -> sql::Result<T> + Send,
) -> Result<T, StoreError> {
    if !is_older(database)? {
        return read(database, work);
    }
    let done = database.on_own_thread(|| {
        let mut session = Session::connect(database, Access::Write)?;
        session.rehearse(|transaction| match schema::advance(transaction)? {
            Ok(_) => work(transaction).map(Ok),
            Err(refused) => Ok(Err(refused)),
        })
    });
    done?.map_err(StoreError::cannot_read)?
}

/// Whether two databases are one, however they are named.
pub(crate) fn is_same(one: &Database, other: &Database) -> Result<bool, StoreError> {
    let place = |database: &Database| {
        let place = database.on_own_thread(|| {
            let mut session = Session::connect(database, Access::Read)?;
            session.transaction(Access::Read, |transaction| transaction.place())
        });
        place?.map_err(StoreError::cannot_read)
    };
    Ok(place(one)? == place(other)?)
}

/// Brings a database that nobody uses up to date, and gives the version that it was of.
///
/// # Errors
/// When it is no CA's, or of a later release that says so.
pub(crate) fn bring_up_to_date(database: &Database) -> Result<u32, StoreError> {
    database.on_own_thread(|| {
        let session = Session::connect(database, Access::Write);
        schema::migrate(&mut session.map_err(StoreError::cannot_read)?)
    })?
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

/// Whether the database has just what it starts with as `new`: an attempt was cut off before the CA's files were in place.
pub(crate) fn is_begun_as(database: &Database, new: &NewCa<'_>) -> Result<bool, StoreError> {
    let expected = serde_json::to_string(&new.initialised()).ok();
    read(database, |transaction| {
        let events = transaction.query("SELECT event FROM audit ORDER BY seq LIMIT 2", &[])?;
        let events: Vec<String> = events
            .iter()
            .map(|row| row.get(0))
            .collect::<sql::Result<_>>()?;
        Ok(events.iter().map(String::as_str).eq(expected.as_deref()))
    })
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
    Batch::begin(transaction, 0)?.audit(new.now, &new.initialised())?;
    writer::clock::save(transaction, unix_seconds(new.now))?;
    Ok(Ok(()))
}

pub(crate) fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
