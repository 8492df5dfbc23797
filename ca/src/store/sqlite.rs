//! The embedded database: one file in the CA directory, with a write-ahead log beside it.

use super::session::Access;
use super::sql::{Result, Row, Value};
use crate::directory;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, Statement, ToSql};
use std::path::Path;
use std::time::Duration;

/// How long to wait for another process that writes, such as `token create` beside a server.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// More than there are statements.
const PREPARED: usize = 128;
/// The names of parameters; no statement has more.
const PARAMETERS: [&str; 16] = [
    "$1", "$2", "$3", "$4", "$5", "$6", "$7", "$8", "$9", "$10", "$11", "$12", "$13", "$14", "$15",
    "$16",
];

/// Opens the database of a CA directory. The file must be there.
pub(super) fn connect(directory: &Path, access: Access) -> Result<Connection> {
    // Each connection stays on one thread, so SQLite need not lock it. A reader does not open the file read-only, as
    // it may have to make the index of the log.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(directory.join(directory::DATABASE), flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(PREPARED);
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    if let Access::Read = access {
        connection.pragma_update(None, "query_only", true)?;
    }
    Ok(connection)
}

/// Kept in the file: every later connection finds the log.
pub(super) fn use_log(connection: &Connection) -> Result<()> {
    Ok(connection.pragma_update(None, "journal_mode", "WAL")?)
}

/// Copies one moment of the database to a new file, which has no log beside it and needs none.
pub(super) fn copy(directory: &Path, file: &Path) -> Result<()> {
    let connection = connect(directory, Access::Write)?;
    let file = file.to_string_lossy();
    connection.execute("VACUUM INTO ?1", [file.as_ref()])?;
    // What a new CA's database is set to stays with the file, but not through a copy.
    let copy = Connection::open(file.as_ref())?;
    Ok(copy.pragma_update(None, "journal_mode", "WAL")?)
}

pub(super) fn begin(connection: &Connection, access: Access) -> Result<()> {
    Ok(connection.execute_batch(match access {
        Access::Read => "BEGIN",
        // Immediate: the end of the chain must not be read before nobody else can append to it.
        Access::Write => "BEGIN IMMEDIATE",
    })?)
}

pub(super) fn execute(connection: &Connection, sql: &str, values: &[Value<'_>]) -> Result<u64> {
    let mut statement = connection.prepare_cached(sql)?;
    bind(&mut statement, values)?;
    Ok(statement.raw_execute()? as u64)
}

pub(super) fn query(connection: &Connection, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
    let mut statement = connection.prepare_cached(sql)?;
    bind(&mut statement, values)?;
    let columns = statement.column_count();
    let (mut rows, mut found) = (statement.raw_query(), Vec::new());
    while let Some(row) = rows.next()? {
        let values = (0..columns).map(|column| owned(row.get_ref(column)?));
        found.push(Row::new(values.collect::<Result<_>>()?));
    }
    Ok(found)
}

/// By name: SQLite numbers `$1` and `$2` as it meets them, PostgreSQL as they say.
fn bind(statement: &mut Statement<'_>, values: &[Value<'_>]) -> Result<()> {
    let count = statement.parameter_count();
    if count != values.len() {
        return Err(rusqlite::Error::InvalidParameterCount(values.len(), count).into());
    }
    for (name, value) in PARAMETERS.iter().zip(values) {
        let index = statement
            .parameter_index(name)?
            .ok_or_else(|| rusqlite::Error::InvalidParameterName((*name).to_owned()))?;
        statement.raw_bind_parameter(index, value)?;
    }
    Ok(())
}

fn owned(value: ValueRef<'_>) -> Result<Value<'static>> {
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Text(_) => Value::Text(
            value
                .as_str()
                .map_err(rusqlite::Error::from)?
                .to_owned()
                .into(),
        ),
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_owned().into()),
        // No table has such a column. A file that was tampered with may, and then no getter accepts it.
        ValueRef::Real(_) => Value::Null,
    })
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}
