//! Databases as programs of earlier releases made them.

use super::{MIGRATIONS, VERSION_TABLE};
use crate::directory::DATABASE;
use rusqlite::Connection;
use std::fs;
use std::path::Path;

/// Puts in the place of the database in `directory`, which nobody uses, one of an earlier version that has as much of its rows
/// as there was room for then.
pub(crate) fn set_back(directory: &Path, version: u32) {
    let (present, older) = (directory.join(DATABASE), directory.join("older"));
    let database = Connection::open(&older).unwrap();
    database.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    database.execute_batch(VERSION_TABLE).unwrap();
    for (migration, number) in MIGRATIONS.iter().zip(1..=version) {
        database.execute_batch(migration.sql).unwrap();
        let sql = "INSERT INTO schema_version (version, oldest) VALUES (?1, ?2)";
        database.execute(sql, [number, migration.oldest]).unwrap();
    }
    let attach = "ATTACH ?1 AS present";
    database.execute(attach, [present.to_str()]).unwrap();
    let tables = "SELECT name, (SELECT group_concat(name) FROM pragma_table_info(tables.name)) FROM sqlite_schema AS tables
        WHERE type = 'table' AND name <> 'schema_version'";
    let mut copies = Vec::new();
    let mut statement = database.prepare(tables).unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let (table, columns): (String, String) = (row.get(0).unwrap(), row.get(1).unwrap());
        copies.push(format!(
            "DELETE FROM main.{table}; INSERT INTO main.{table} ({columns}) SELECT {columns} FROM present.{table};"
        ));
    }
    drop(rows);
    drop(statement);
    database.execute_batch(&copies.concat()).unwrap();
    database.execute_batch("DETACH present").unwrap();
    database.pragma_update(None, "journal_mode", "WAL").unwrap();
    database.close().unwrap();
    for log in ["ca.db-wal", "ca.db-shm"] {
        fs::remove_file(directory.join(log)).ok();
    }
    fs::rename(older, present).unwrap();
}
