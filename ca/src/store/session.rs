//! A connection to the database, whichever it is, and transactions on it.

use super::sql::{Result, Row, Value};
use super::sqlite;
use std::path::Path;

/// A connection of one thread.
#[derive(Debug)]
pub(crate) enum Session {
    Sqlite(rusqlite::Connection),
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
    /// Connects to the database of a CA directory, of whatever version it is.
    pub(crate) fn connect(directory: &Path, access: Access) -> Result<Self> {
        sqlite::connect(directory, access).map(Self::Sqlite)
    }

    /// Connects to the empty database of a new CA directory and sets what stays with it.
    pub(super) fn create(directory: &Path) -> Result<Self> {
        let connection = sqlite::connect(directory, Access::Write)?;
        sqlite::use_log(&connection)?;
        Ok(Self::Sqlite(connection))
    }

    /// Runs `work` in a transaction, and commits it durably if it succeeds. When this fails, nothing is kept, except
    /// that nobody knows what became of a commit whose answer was lost.
    pub(crate) fn transaction<T>(
        &mut self,
        access: Access,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        match self {
            Self::Sqlite(connection) => sqlite::begin(connection, access)?,
        }
        let done = work(&mut Transaction { session: self });
        let done = done.and_then(|value| self.end("COMMIT").map(|()| value));
        if done.is_err() {
            // SQLite has rolled back by itself after some errors, and then says so.
            let _ = self.end("ROLLBACK");
        }
        done
    }

    fn end(&mut self, sql: &'static str) -> Result<()> {
        match self {
            Self::Sqlite(connection) => Ok(connection.execute_batch(sql)?),
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
        }
    }

    /// The rows that a statement gives, all of them: one that could give many has a `LIMIT`.
    pub(crate) fn query(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        match &mut *self.session {
            Session::Sqlite(connection) => sqlite::query(connection, sql, values),
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

    /// Runs the statements of a migration.
    pub(super) fn run_script(&mut self, sql: &str) -> Result<()> {
        match &mut *self.session {
            Session::Sqlite(connection) => Ok(connection.execute_batch(sql)?),
        }
    }

    pub(super) fn has_tables(&mut self) -> Result<bool> {
        let sql = match &mut *self.session {
            Session::Sqlite(_) => {
                "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'schema_version'"
            }
        };
        self.only(sql, &[])?.get(0)
    }

    /// What is left on the disk below the database; `None` where the system does not tell or the disk is not ours.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        match &*self.session {
            Session::Sqlite(connection) => {
                let disk = rustix::fs::statvfs(connection.path()?).ok()?;
                Some(disk.f_bavail.saturating_mul(disk.f_frsize))
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn sqlite(&self) -> &rusqlite::Connection {
        match &*self.session {
            Session::Sqlite(connection) => connection,
        }
    }
}
