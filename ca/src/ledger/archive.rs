//! Old records leave the database for files, and the chain still holds: what is left begins at the hash of the last
//! record that left, which the chain itself names.
//!
//! A record leaves only when nothing in the database depends on it: its certificate was swept, and so were those of all
//! records before it. Each file holds a run of records, one a line, as they were hashed.

use super::verify::{Problem, Report};
use super::{Event, Head, record_hash};
use crate::csr::KeyHash;
use crate::directory;
use crate::store::session::Transaction;
use crate::store::sql::{self, Row, values};
use crate::store::{self, Database, StoreError};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

mod keeper;

#[cfg(test)]
mod tests;

pub use keeper::{ArchiveOptions, keep_archiving};

/// Records in one file; some ten MiB.
const SEGMENT: u32 = 20_000;
/// No record of ours comes near it.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// A file of records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Segment {
    pub first: i64,
    pub last: i64,
    pub file: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Line {
    seq: i64,
    time_ms: i64,
    event: String,
    previous: String,
    hash: String,
}

/// Moves the oldest records from before `before` to a new file in `folder`; `None` when there are none that may go. The
/// file is durable before they are gone. There may be more.
///
/// # Errors
/// When the database cannot be used or the file cannot be written.
pub fn archive(
    database: impl Into<Database>,
    folder: &Path,
    before: SystemTime,
) -> Result<Option<Segment>, ArchiveError> {
    let database = database.into();
    let lines = store::read(&database, |transaction| oldest(transaction, before))?;
    let (Some(first), Some(last)) = (lines.first(), lines.last()) else {
        return Ok(None);
    };
    let file = folder.join(format!("audit-{:020}-{:020}.jsonl", first.seq, last.seq));
    let mut text = Vec::new();
    for line in &lines {
        serde_json::to_writer(&mut text, line).expect("a line is strings and numbers");
        text.push(b'\n');
    }
    directory::replace(&file, &text).map_err(|source| ArchiveError::Write {
        file: file.clone(),
        source,
    })?;
    store::write(&database, |transaction| forget(transaction, first, last))?;
    Ok(Some(Segment {
        first: first.seq,
        last: last.seq,
        file,
    }))
}

/// The records that may go, in order. The last of all stays: the next is linked to it.
fn oldest(transaction: &mut Transaction<'_>, before: SystemTime) -> sql::Result<Vec<Line>> {
    let bound: i64 = transaction
        .only(
            "SELECT coalesce((SELECT min(audit_seq) FROM certificate), (SELECT max(seq) FROM audit), 0)",
            &[],
        )?
        .get(0)?;
    let swept_by = swept_by(transaction)?;
    let rows = transaction.query(
        "SELECT seq, time_ms, event, previous, hash FROM audit
         WHERE seq < $1 AND time_ms < $2 AND seq < (SELECT max(seq) FROM audit)
         ORDER BY seq LIMIT $3",
        values![bound, super::unix_ms(before), SEGMENT],
    )?;
    let mut lines = Vec::new();
    for row in &rows {
        let line = Line::of(row)?;
        match serde_json::from_str(&line.event) {
            // Missing, or its sweep is not yet on record.
            Ok(Event::Issued { not_after, .. }) if not_after > swept_by => break,
            _ => lines.push(line),
        }
    }
    Ok(lines)
}

/// Until when certificates that ended may have gone, by the last sweep on record.
fn swept_by(transaction: &mut Transaction<'_>) -> sql::Result<i64> {
    Ok(match last_of(transaction, "swept")? {
        Some(Event::Swept { expired_by }) => expired_by,
        _ => i64::MIN,
    })
}

/// The last event of a kind, which is the first thing that every event says.
fn last_of(transaction: &mut Transaction<'_>, kind: &str) -> sql::Result<Option<Event>> {
    let beginning = format!("{{\"kind\":\"{kind}\",%");
    let row = transaction.first(
        "SELECT event FROM audit WHERE event LIKE $1 ORDER BY seq DESC LIMIT 1",
        values![&beginning],
    )?;
    let event: Option<String> = row.map(|row| row.get(0)).transpose()?;
    Ok(event.and_then(|event| serde_json::from_str(&event).ok()))
}

fn forget(transaction: &mut Transaction<'_>, first: &Line, last: &Line) -> sql::Result<()> {
    // Another replica may have archived them since: then its file is the same and there is nothing left to do.
    let present = transaction.first("SELECT seq FROM audit WHERE seq = $1", values![first.seq])?;
    if present.is_none() {
        return Ok(());
    }
    let event = Event::Archived {
        through: last.seq,
        hash: last.hash.clone(),
    };
    Head::read(transaction)?.append(transaction, SystemTime::now(), &event)?;
    transaction.execute("DELETE FROM audit WHERE seq <= $1", values![last.seq])?;
    Ok(())
}

impl Line {
    fn of(row: &Row) -> sql::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            time_ms: row.get(1)?,
            event: row.get(2)?,
            previous: KeyHash(row.get(3)?).to_string(),
            hash: KeyHash(row.get(4)?).to_string(),
        })
    }
}

/// The last record that left the database, as the records in it say.
pub(super) fn boundary(transaction: &mut Transaction<'_>) -> sql::Result<Head> {
    Ok(match last_of(transaction, "archived")? {
        Some(Event::Archived { through, hash }) => Head {
            seq: through,
            // One that is none does not match what comes next, which is reported.
            hash: unhex(&hash).unwrap_or_default(),
        },
        _ => Head::START,
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Walks the files in `folder` from the first record on and gives the last, to which what is in the database links. That
/// the certificates of these records had been swept was seen to when they left.
///
/// # Errors
/// When a file cannot be read. One that does not fit is a problem in the report.
pub(super) fn walk(
    folder: &Path,
    boundary: Head,
    report: &mut Report,
) -> Result<Head, ArchiveError> {
    let unreadable = |file: &Path, source| ArchiveError::Read {
        file: file.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|source| unreadable(folder, source))? {
        let file = entry.map_err(|source| unreadable(folder, source))?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("audit-") && name.ends_with(".jsonl") {
            files.push(file);
        }
    }
    // Their names have numbers of one width.
    files.sort();
    let mut head = Head::START;
    for file in &files {
        let mut lines =
            BufReader::new(File::open(file).map_err(|source| unreadable(file, source))?);
        let mut text = Vec::new();
        while read_line(&mut lines, &mut text).map_err(|source| unreadable(file, source))? {
            follow(&mut head, &text, boundary, report);
        }
    }
    Ok(head)
}

fn read_line(lines: &mut impl BufRead, text: &mut Vec<u8>) -> io::Result<bool> {
    text.clear();
    let mut bounded = io::Read::take(lines, MAX_LINE_BYTES as u64);
    bounded.read_until(b'\n', text)?;
    if text.last().is_some_and(|last| *last != b'\n') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "expected a whole line",
        ));
    }
    Ok(!text.is_empty())
}

fn follow(head: &mut Head, text: &[u8], boundary: Head, report: &mut Report) {
    let expected = head.seq + 1;
    let Ok(line) = serde_json::from_slice::<Line>(text) else {
        report.add(Problem::Unreadable { seq: expected });
        return;
    };
    let seq = line.seq;
    // An attempt that did not get as far as the database has left a file of records that the next file has, too, or
    // that are still there.
    if seq <= head.seq || seq > boundary.seq {
        return;
    }
    report.archived += 1;
    if seq != expected {
        report.add(Problem::Gap { seq, expected });
    }
    if line.previous != KeyHash(head.hash).to_string() {
        report.add(Problem::Unlinked { seq });
    }
    let hash = record_hash(seq, line.time_ms, &head.hash, &line.event);
    if line.hash != KeyHash(hash).to_string() {
        report.add(Problem::Changed { seq });
    }
    if serde_json::from_str::<Event>(&line.event).is_err() {
        report.add(Problem::Unreadable { seq });
    }
    *head = Head { seq, hash };
}

/// Why records were not archived, or an archive not read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("cannot use the CA's database")]
    Store(#[from] StoreError),
    #[error("cannot write {file}")]
    Write {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {file}")]
    Read {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
}
