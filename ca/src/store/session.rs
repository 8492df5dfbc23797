//! A connection to the database, whichever it is, and transactions on it.

use super::sql::{Result, Row, Value, values};
use super::{Database, postgres, sqlite};

/// A connection of one thread.
#[derive(Debug)]
pub(crate) enum Session {
    Sqlite(rusqlite::Connection),
    Postgres(Box<postgres::Session>),
}

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Sees one moment of the database and holds nobody up.
    Read,
    /// Alone: one writer at a time, in whatever process.
    Write,
}

impl Session {
    /// Connects to a database, of whatever version it is; to PostgreSQL not before the first transaction.
    pub(crate) fn connect(database: &Database, access: Access) -> Result<Self> {
        match database {
            Database::Sqlite { directory } => sqlite::connect(directory, access).map(Self::Sqlite),
            Database::Postgres(server) => {
                let session = postgres::Session::new(server.clone())?;
                Ok(Self::Postgres(Box::new(session)))
            }
        }
    }

    /// Sets what stays with the database of a new CA.
    pub(super) fn prepare(&self) -> Result<()> {
        match self {
            Self::Sqlite(connection) => sqlite::use_log(connection),
            Self::Postgres(_) => Ok(()),
        }
    }

    /// Runs `work` in a transaction, and commits it durably if it succeeds. When this fails, nothing is kept, except
    /// that nobody knows what became of a commit whose answer was lost.
    pub(crate) fn transaction<T>(
        &mut self,
        access: Access,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        self.begin(access)?;
        let done = work(&mut Transaction { session: self });
        let done = done.and_then(|value| self.commit().map(|()| value));
        if done.is_err() {
            // SQLite has rolled back by itself after some errors, and a lost connection to PostgreSQL ends what was
            // begun on it; both then say so.
            let _ = self.roll_back();
        }
        done
    }

    /// Runs `work` in a transaction that may write, and keeps nothing of it.
    pub(super) fn rehearse<T>(
        &mut self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        self.begin(Access::Write)?;
        let done = work(&mut Transaction { session: self });
        // Where that fails, the connection is lost, or it was rolled back before: nothing is kept either.
        let _ = self.roll_back();
        done
    }

    fn begin(&mut self, access: Access) -> Result<()> {
        match self {
            Self::Sqlite(connection) => sqlite::begin(connection, access),
            Self::Postgres(session) => session.begin(access),
        }
    }

    fn commit(&mut self) -> Result<()> {
        match self {
            Self::Sqlite(connection) => Ok(connection.execute_batch("COMMIT")?),
            Self::Postgres(session) => session.commit(),
        }
    }

    fn roll_back(&mut self) -> Result<()> {
        match self {
            Self::Sqlite(connection) => Ok(connection.execute_batch("ROLLBACK")?),
            Self::Postgres(session) => session.roll_back(),
        }
    }
}

/// An open transaction. Work that meets an error passes it on, as PostgreSQL takes no further statement then.
#[derive(Debug)]
pub(crate) struct Transaction<'a> {
    session: &'a mut Session,
}

impl Transaction<'_> {
    /// Runs a statement and gives the number of rows that it changed.
    pub(crate) fn execute(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<u64> {
        match &mut *self.session {
            Session::Sqlite(connection) => sqlite::execute(connection, sql, values),
            Session::Postgres(session) => session.execute(sql, values),
        }
    }

    /// Runs a statement of which nothing is asked but that it succeeds. On PostgreSQL it leaves with the next statement
    /// that is waited for, and what went wrong with it is that one's error, at the latest the commit's.
    pub(crate) fn write(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<()> {
        match &mut *self.session {
            Session::Sqlite(connection) => sqlite::execute(connection, sql, values).map(drop),
            Session::Postgres(session) => session.write(sql, values),
        }
    }

    /// The rows that a statement gives, all of them: one that could give many has a `LIMIT`.
    pub(crate) fn query(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        match &mut *self.session {
            Session::Sqlite(connection) => sqlite::query(connection, sql, values),
            Session::Postgres(session) => session.query(sql, values),
        }
    }

    /// The first row that a statement gives, if any.
    pub(crate) fn first(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<Option<Row>> {
        Ok(self.query(sql, values)?.into_iter().next())
    }

    /// The one row of a statement that always gives one, such as a count.
    pub(crate) fn only(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<Row> {
        let none = || Row::new(Vec::new());
        Ok(self.first(sql, values)?.unwrap_or_else(none))
    }

    /// Runs the statements of a migration, which are in SQLite's words.
    pub(super) fn run_script(&mut self, sql: &str) -> Result<()> {
        match &mut *self.session {
            Session::Sqlite(connection) => Ok(connection.execute_batch(sql)?),
            Session::Postgres(session) => session.run_script(&postgres::translated(sql)),
        }
    }

    /// Whether the database has a table of this name.
    pub(super) fn has_table(&mut self, name: &str) -> Result<bool> {
        let sql = match &*self.session {
            Session::Sqlite(_) => {
                "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = $1"
            }
            Session::Postgres(_) => "SELECT to_regclass($1) IS NOT NULL",
        };
        self.only(sql, values![name])?.get(0)
    }

    /// Tells the database from every other: the file, or the server by the microsecond of its start.
    pub(super) fn place(&mut self) -> Result<String> {
        if let Session::Sqlite(connection) = &*self.session {
            return Ok(connection.path().unwrap_or_default().to_owned());
        }
        let sql = "SELECT CAST(extract(epoch FROM pg_postmaster_start_time()) AS TEXT) || ' ' || current_database()";
        self.only(sql, &[])?.get(0)
    }

    /// Lets the other replicas know that something has changed, once this is committed.
    pub(super) fn notify(&mut self) -> Result<()> {
        match &mut *self.session {
            // Other processes on the same directory find out by polling.
            Session::Sqlite(_) => Ok(()),
            Session::Postgres(session) => session.run_script(postgres::NOTIFY),
        }
    }

    /// What is left on the disk below the database; `None` where the system does not tell or the disk is not ours.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        match &*self.session {
            Session::Sqlite(connection) => {
                let disk = rustix::fs::statvfs(connection.path()?).ok()?;
                Some(disk.f_bavail.saturating_mul(disk.f_frsize))
            }
            Session::Postgres(_) => None,
        }
    }

    #[cfg(test)]
    pub(crate) fn sqlite(&self) -> &rusqlite::Connection {
        match &*self.session {
            Session::Sqlite(connection) => connection,
            Session::Postgres(_) => panic!("expected an embedded database"),
        }
    }
}
