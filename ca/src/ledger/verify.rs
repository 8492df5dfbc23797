//! Walks the audit chain and holds the certificates against it.

use super::archive::{self, ArchiveError};
use super::{Event, Head, fingerprint, record_hash};
use crate::csr::KeyHash;
use crate::store::session::Transaction;
use crate::store::sql::{self, Row, values};
use crate::store::{self, Database, StoreError};
use serde::Serialize;
use std::path::Path;

/// More are counted, not listed: one broken link makes few, a replaced file makes one per record.
const MAX_PROBLEMS: usize = 20;
/// Rows in memory at a time.
const PAGE: u32 = 1000;

/// What an audit found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub records: u64,
    /// Records in files of the archive, which were verified as well.
    pub archived: u64,
    pub certificates: u64,
    /// Certificates that are recorded and were swept away after they had expired.
    pub swept: u64,
    /// Hash of the last record, lower-case hexadecimal: note it elsewhere to notice records cut off at the end.
    pub head: String,
    /// The first 20 in the order found; empty when all is well.
    pub problems: Vec<Problem>,
    /// How many more there were.
    pub further_problems: u64,
}

/// One way in which the records do not hold together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum Problem {
    #[error("record {seq}: expected record {expected} here")]
    Gap { seq: i64, expected: i64 },
    #[error("record {seq}: does not link to the record before it")]
    Unlinked { seq: i64 },
    #[error("record {seq}: its content was changed")]
    Changed { seq: i64 },
    #[error("record {seq}: its content cannot be read")]
    Unreadable { seq: i64 },
    #[error(
        "record {seq}: the certificate {serial} it names is missing, and no record says that it was swept"
    )]
    CertificateMissing { seq: i64, serial: String },
    #[error("certificate {serial}: recorded in {first} and again in {second}")]
    RecordedTwice {
        serial: String,
        first: i64,
        second: i64,
    },
    #[error("certificate {serial}: expected audit record {seq} to be about it")]
    NotRecorded { serial: String, seq: i64 },
}

impl Report {
    /// Whether nothing was found.
    pub fn is_intact(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn add(&mut self, problem: Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.further_problems += 1;
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        if self.further_problems > 0 {
            writeln!(f, "and {} further problems", self.further_problems)?;
        }
        let verdict = if self.is_intact() { "intact" } else { "broken" };
        let Self {
            records,
            archived,
            certificates,
            swept,
            head,
            ..
        } = self;
        write!(f, "audit chain {verdict}: {records} records, ")?;
        if *archived > 0 {
            write!(f, "{archived} archived, ")?;
        }
        write!(
            f,
            "{certificates} certificates, {swept} expired and swept, head {head}"
        )
    }
}

/// Verifies the audit chain of a CA, from the first record that is in its database. May run beside a server: it sees one
/// moment of the database.
///
/// # Errors
/// When the database cannot be read. A chain that is read and broken is a [`Report`].
pub fn verify(database: impl Into<Database>) -> Result<Report, StoreError> {
    // One transaction: the chain and the certificates of the same moment.
    store::read(&database.into(), |transaction| {
        let start = archive::boundary(transaction)?;
        walk(transaction, start, Report::default())
    })
}

/// The same, from the first record of all, which is in a file of `archive` by now.
///
/// # Errors
/// When the database or a file cannot be read.
pub fn verify_with_archive(
    database: impl Into<Database>,
    archive: &Path,
) -> Result<Report, ArchiveError> {
    let walked = store::read(&database.into(), |transaction| {
        let boundary = archive::boundary(transaction)?;
        let mut report = Report::default();
        match archive::walk(archive, boundary, &mut report) {
            Ok(start) => walk(transaction, start, report).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    });
    walked?
}

fn walk(transaction: &mut Transaction<'_>, start: Head, mut report: Report) -> sql::Result<Report> {
    let head = walk_chain(transaction, start, &mut report)?;
    report.head = KeyHash(head.hash).to_string();
    walk_issuances(transaction, &mut report)?;
    walk_certificates(transaction, &mut report)?;
    Ok(report)
}

fn walk_chain(
    transaction: &mut Transaction<'_>,
    mut head: Head,
    report: &mut Report,
) -> sql::Result<Head> {
    let mut after = i64::MIN;
    loop {
        let rows = transaction.query(
            "SELECT seq, time_ms, event, previous, hash FROM audit
             WHERE seq > $1 ORDER BY seq LIMIT $2",
            values![after, PAGE],
        )?;
        for row in &rows {
            after = row.get(0)?;
            follow(&mut head, after, row, report);
        }
        if rows.len() < PAGE as usize {
            return Ok(head);
        }
    }
}

/// Holds a record against the one before it.
fn follow(head: &mut Head, seq: i64, row: &Row, report: &mut Report) {
    report.records += 1;
    let expected = head.seq + 1;
    if seq != expected {
        report.add(Problem::Gap { seq, expected });
    }
    head.seq = seq;
    let (Ok(time_ms), Ok(event), Ok(previous), Ok(hash)) = (
        row.get(1),
        row.get::<String>(2),
        row.get::<[u8; 32]>(3),
        row.get::<[u8; 32]>(4),
    ) else {
        report.add(Problem::Unreadable { seq });
        return;
    };
    if previous != head.hash {
        report.add(Problem::Unlinked { seq });
    }
    head.hash = hash;
    if record_hash(seq, time_ms, &previous, &event) != hash {
        report.add(Problem::Changed { seq });
    }
    if serde_json::from_str::<Event>(&event).is_err() {
        report.add(Problem::Unreadable { seq });
    }
}

/// An issuance record has its certificate, until a sweep of what had expired is recorded. Backwards, so that the sweeps
/// after a record are known when its turn comes.
fn walk_issuances(transaction: &mut Transaction<'_>, report: &mut Report) -> sql::Result<()> {
    let (mut before, mut swept_by) = (i64::MAX, i64::MIN);
    loop {
        let rows = transaction.query(
            "SELECT a.seq, a.event, c.serial
             FROM audit a LEFT JOIN certificate c ON c.audit_seq = a.seq
             WHERE a.seq < $1 ORDER BY a.seq DESC LIMIT $2",
            values![before, PAGE],
        )?;
        for row in &rows {
            before = row.get(0)?;
            match event_of(row, 1) {
                Some(Event::Issued {
                    serial, not_after, ..
                }) => {
                    let own: Option<String> = row.get(2)?;
                    let in_place = own.is_some_and(|own| own == serial);
                    let swept = not_after <= swept_by;
                    if !in_place {
                        look_for(transaction, serial, before, swept, report)?;
                    }
                }
                Some(Event::Swept { expired_by }) => swept_by = swept_by.max(expired_by),
                _ => {}
            }
        }
        if rows.len() < PAGE as usize {
            return Ok(());
        }
    }
}

/// The certificate of an issuance record is not the one that points to it: it is swept, gone, or recorded elsewhere.
fn look_for(
    transaction: &mut Transaction<'_>,
    serial: String,
    seq: i64,
    swept: bool,
    report: &mut Report,
) -> sql::Result<()> {
    let found = transaction.first(
        "SELECT audit_seq FROM certificate WHERE serial = $1",
        values![&serial],
    )?;
    match found {
        Some(row) => report.add(Problem::RecordedTwice {
            serial,
            first: row.get(0)?,
            second: seq,
        }),
        None if swept => report.swept += 1,
        None => report.add(Problem::CertificateMissing { seq, serial }),
    }
    Ok(())
}

/// A certificate has its issuance record, which names exactly these bytes.
fn walk_certificates(transaction: &mut Transaction<'_>, report: &mut Report) -> sql::Result<()> {
    let mut after = i64::MIN;
    loop {
        let rows = transaction.query(
            "SELECT c.audit_seq, c.serial, c.spiffe_id, c.not_after, c.der, a.event
             FROM certificate c LEFT JOIN audit a ON a.seq = c.audit_seq
             WHERE c.audit_seq > $1 ORDER BY c.audit_seq LIMIT $2",
            values![after, PAGE],
        )?;
        for row in &rows {
            report.certificates += 1;
            after = row.get(0)?;
            let serial: String = row.get(1)?;
            let der: Vec<u8> = row.get(4)?;
            let (id, end): (String, i64) = (row.get(2)?, row.get(3)?);
            let matches = match event_of(row, 5) {
                Some(Event::Issued {
                    serial: recorded_serial,
                    spiffe_id,
                    not_after,
                    certificate,
                    ..
                }) => {
                    (recorded_serial.as_str(), spiffe_id, not_after) == (&serial, id, end)
                        && certificate == fingerprint(&der)
                }
                _ => false,
            };
            if !matches {
                report.add(Problem::NotRecorded { serial, seq: after });
            }
        }
        if rows.len() < PAGE as usize {
            return Ok(());
        }
    }
}

/// `None` for an event that cannot be read, which the walk along the chain has reported.
fn event_of(row: &Row, column: usize) -> Option<Event> {
    let event: String = row.get(column).ok()?;
    serde_json::from_str(&event).ok()
}
