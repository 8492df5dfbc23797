//! The tables of the database and how an older database gets them.
//!
//! A migration is a file of statements, numbered without gaps, that is never changed once released. It is written in
//! SQLite's words. One that leaves what earlier programs use where it was (new tables, new columns that may be empty
//! or have a default) names the oldest of them, so that replicas can be replaced one by one; everything else takes two
//! releases.

use super::StoreError;
use super::session::{Access, Session, Transaction};
use super::sql::{self, DatabaseError, values};

#[cfg(test)]
pub(super) mod older;

struct Migration {
    sql: &'static str,
    /// The version of the oldest program that can work with the database after this.
    oldest: u32,
}

/// Version 1 and the later ones.
const MIGRATIONS: &[Migration] = &[
    Migration {
        sql: include_str!("migrations/0001_first.sql"),
        oldest: 1,
    },
    // What issues has to keep lineages.
    Migration {
        sql: include_str!("migrations/0002_descent.sql"),
        oldest: 2,
    },
    // What renews has to ask again for what an identity was attested by.
    Migration {
        sql: include_str!("migrations/0003_attestation.sql"),
        oldest: 3,
    },
    // What issues has to refuse who is revoked.
    Migration {
        sql: include_str!("migrations/0004_revocation.sql"),
        oldest: 4,
    },
    // What publishes the bundle has to publish the keys with it.
    Migration {
        sql: include_str!("migrations/0005_jwt.sql"),
        oldest: 5,
    },
    // What issues has to refuse when the ledger was set back.
    Migration {
        sql: include_str!("migrations/0006_rollback.sql"),
        oldest: 6,
    },
    // What an earlier program issues has no entry behind it, and is not recovered.
    Migration {
        sql: include_str!("migrations/0007_recovery.sql"),
        oldest: 6,
    },
    // What signs has to go by the authority that is active.
    Migration {
        sql: include_str!("migrations/0008_authority.sql"),
        oldest: 8,
    },
];

/// The version that this program was written for.
pub(crate) const VERSION: u32 = MIGRATIONS.len() as u32;

/// One row a migration.
const VERSION_TABLE: &str = "CREATE TABLE schema_version (
    version INTEGER PRIMARY KEY,
    oldest  INTEGER NOT NULL
) STRICT;";

/// Makes the tables in an empty database.
pub(super) fn create(transaction: &mut Transaction<'_>) -> sql::Result<()> {
    transaction.run_script(VERSION_TABLE)?;
    apply(transaction, 0)
}

/// Brings an older database up to date, in one transaction. A newer one is left alone if this program may use it. Gives the
/// version that it was of.
pub(super) fn migrate(session: &mut Session) -> Result<u32, StoreError> {
    session
        .transaction(Access::Write, advance)
        .map_err(StoreError::cannot_record)?
}

/// The same in a transaction that somebody else ends.
pub(super) fn advance(transaction: &mut Transaction<'_>) -> sql::Result<Result<u32, StoreError>> {
    let found = Found::read(transaction)?;
    if found.is_older() {
        apply(transaction, found.version)?;
        return Ok(Ok(found.version));
    }
    Ok(found.check().map(|()| found.version))
}

/// Whether what is written is still understood: another replica may have brought the database further while this one ran.
///
/// # Errors
/// [`DatabaseError::Version`] when it is not.
pub(super) fn require(transaction: &mut Transaction<'_>) -> sql::Result<()> {
    let found = Found::last(transaction)?;
    found.check().map_err(|_| DatabaseError::Version {
        found: found.version,
        oldest: found.oldest,
    })
}

/// Whether a reader may use the database as it is.
pub(super) fn check(transaction: &mut Transaction<'_>) -> sql::Result<Result<(), StoreError>> {
    Found::read(transaction).map(|found| found.check())
}

/// Whether a database of ours is from before this program.
pub(super) fn is_older(transaction: &mut Transaction<'_>) -> sql::Result<bool> {
    Found::read(transaction).map(Found::is_older)
}

fn apply(transaction: &mut Transaction<'_>, from: u32) -> sql::Result<()> {
    for (migration, version) in MIGRATIONS.iter().zip(1_u32..).skip(from as usize) {
        transaction.run_script(migration.sql)?;
        transaction.execute(
            "INSERT INTO schema_version (version, oldest) VALUES ($1, $2)",
            values![version, migration.oldest],
        )?;
    }
    Ok(())
}

/// The state of a database.
#[derive(Debug, Clone, Copy)]
struct Found {
    /// 0 without any of our tables.
    version: u32,
    oldest: u32,
}

impl Found {
    fn read(transaction: &mut Transaction<'_>) -> sql::Result<Self> {
        if !transaction.has_table("schema_version")? {
            return Ok(Self {
                version: 0,
                oldest: 0,
            });
        }
        Self::last(transaction)
    }

    fn last(transaction: &mut Transaction<'_>) -> sql::Result<Self> {
        let row = transaction.only(
            "SELECT coalesce(max(version), 0), coalesce(max(oldest), 0) FROM schema_version",
            &[],
        )?;
        Ok(Self {
            version: row.get(0)?,
            oldest: row.get(1)?,
        })
    }

    fn is_older(self) -> bool {
        self.version > 0 && self.version < VERSION
    }

    fn check(self) -> Result<(), StoreError> {
        let Self { version, oldest } = self;
        if version >= VERSION && oldest <= VERSION {
            return Ok(());
        }
        Err(StoreError::Version {
            found: version,
            oldest,
        })
    }
}
