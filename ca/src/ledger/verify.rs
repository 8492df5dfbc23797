//! Walks the audit chain and holds the certificates against it.

use super::{Event, Head, fingerprint, record_hash};
use crate::csr::KeyHash;
use crate::store::{StoreError, open_for_reading};
use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;
use std::path::Path;

/// More are counted, not listed: one broken link makes few, a replaced file makes one per record.
const MAX_PROBLEMS: usize = 20;

/// What an audit found.
#[derive(Debug, Serialize)]
pub struct Report {
    pub records: u64,
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

    fn add(&mut self, problem: Problem) {
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
            certificates,
            swept,
            head,
            ..
        } = self;
        write!(
            f,
            "audit chain {verdict}: {records} records, {certificates} certificates, {swept} expired and swept, head {head}"
        )
    }
}

/// Verifies the audit chain of a CA directory. May run beside a server: it sees one moment of the database.
///
/// # Errors
/// When the database cannot be read. A chain that is read and broken is a [`Report`].
pub fn verify(directory: &Path) -> Result<Report, StoreError> {
    let mut connection = open_for_reading(directory)?;
    walk(&mut connection).map_err(StoreError::cannot_read)
}

fn walk(connection: &mut Connection) -> rusqlite::Result<Report> {
    // One transaction: the chain and the certificates of the same moment.
    let transaction = connection.transaction()?;
    let mut report = Report {
        records: 0,
        certificates: 0,
        swept: 0,
        head: String::new(),
        problems: Vec::new(),
        further_problems: 0,
    };
    let head = walk_chain(&transaction, &mut report)?;
    report.head = KeyHash(head.hash).to_string();
    walk_issuances(&transaction, &mut report)?;
    walk_certificates(&transaction, &mut report)?;
    Ok(report)
}

fn walk_chain(connection: &Connection, report: &mut Report) -> rusqlite::Result<Head> {
    let mut statement =
        connection.prepare("SELECT seq, time_ms, event, previous, hash FROM audit ORDER BY seq")?;
    let mut rows = statement.query([])?;
    let mut head = Head::START;
    while let Some(row) = rows.next()? {
        report.records += 1;
        let seq: i64 = row.get(0)?;
        let expected = head.seq + 1;
        if seq != expected {
            report.add(Problem::Gap { seq, expected });
        }
        head.seq = seq;
        let (Ok(time_ms), Ok(event), Ok(previous), Ok(hash)) = (
            row.get(1),
            row.get::<_, String>(2),
            row.get::<_, [u8; 32]>(3),
            row.get::<_, [u8; 32]>(4),
        ) else {
            report.add(Problem::Unreadable { seq });
            continue;
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
    Ok(head)
}

/// An issuance record has its certificate, until a sweep of what had expired is recorded. Backwards, so that the sweeps
/// after a record are known when its turn comes.
fn walk_issuances(connection: &Connection, report: &mut Report) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("SELECT seq, event FROM audit ORDER BY seq DESC")?;
    let mut of_serial =
        connection.prepare("SELECT audit_seq FROM certificate WHERE serial = ?1")?;
    let mut rows = statement.query([])?;
    let mut swept_by = i64::MIN;
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(0)?;
        // One that cannot be read was reported by the walk along the chain.
        let event: Option<String> = row.get(1).ok();
        let (serial, not_after) = match event.and_then(|event| serde_json::from_str(&event).ok()) {
            Some(Event::Issued {
                serial, not_after, ..
            }) => (serial, not_after),
            Some(Event::Swept { expired_by }) => {
                swept_by = swept_by.max(expired_by);
                continue;
            }
            _ => continue,
        };
        let found: Option<i64> = of_serial
            .query_row([&serial], |row| row.get(0))
            .optional()?;
        match found {
            Some(first) if first != seq => report.add(Problem::RecordedTwice {
                serial,
                first,
                second: seq,
            }),
            Some(_) => {}
            None if not_after <= swept_by => report.swept += 1,
            None => report.add(Problem::CertificateMissing { seq, serial }),
        }
    }
    Ok(())
}

/// A certificate has its issuance record, which names exactly these bytes.
fn walk_certificates(connection: &Connection, report: &mut Report) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "SELECT c.serial, c.spiffe_id, c.not_after, c.der, c.audit_seq, a.event
         FROM certificate c LEFT JOIN audit a ON a.seq = c.audit_seq",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        report.certificates += 1;
        let (serial, seq): (String, i64) = (row.get(0)?, row.get(4)?);
        let der: Vec<u8> = row.get(3)?;
        let (spiffe_id, not_after): (String, i64) = (row.get(1)?, row.get(2)?);
        let event: Option<String> = row.get(5).ok();
        let matches = match event.and_then(|event| serde_json::from_str(&event).ok()) {
            Some(Event::Issued {
                serial: recorded_serial,
                spiffe_id: recorded_id,
                not_after: recorded_end,
                certificate,
                ..
            }) => {
                (&recorded_serial, &recorded_id, recorded_end) == (&serial, &spiffe_id, not_after)
                    && certificate == fingerprint(&der)
            }
            _ => false,
        };
        if !matches {
            report.add(Problem::NotRecorded { serial, seq });
        }
    }
    Ok(())
}
