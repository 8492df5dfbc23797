//! What `tipstaff ca drill` finds out without changing anything: what ends when, who would fail first if the CA stopped
//! now, and whether key, database, disk and backup can be used.

use crate::authority::{Forecast, forecast};
use crate::backup::{self, Contents, Manifest};
use crate::causes::in_full;
use crate::config::{MAX_TTL, OpenOptions};
use crate::csr::KeyHash;
use crate::inspect::rfc3339;
use crate::keys::Passphrase;
use crate::ledger::{self, Head};
use crate::store::sql::values;
use crate::store::{self, Database, StoreError, unix_seconds};
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, SystemTime};

#[cfg(test)]
mod tests;

/// Identities that are named.
const FIRST: u32 = 10;
/// Spans for which the identities are counted that would have failed.
const SPANS: [Duration; 4] = [
    Duration::from_secs(15 * 60),
    Duration::from_secs(60 * 60),
    Duration::from_secs(6 * 60 * 60),
    MAX_TTL,
];
/// Less room than this is a problem: some ten thousand certificates and their records fit.
const ROOM_BYTES: u64 = 64 * 1024 * 1024;

/// Times are RFC 3339.
#[derive(Debug, Serialize)]
pub struct Report {
    pub checked_at: String,
    /// When the issuer (with what it depends on) ends, and from when on certificates get shorter for it.
    pub issuer_ends: Option<String>,
    pub full_lives_until: Option<String>,
    pub identities: u64,
    /// How many of them would have failed so long after the CA stopped now.
    pub failed_after: Vec<FailedAfter>,
    pub first_to_fail: Vec<FirstToFail>,
    pub audit_records: u64,
    pub free_bytes: Option<u64>,
    pub backup: Option<BackupFound>,
    /// Empty when all is well.
    pub problems: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct FailedAfter {
    pub minutes: u64,
    pub identities: u64,
}

/// An identity and the end of its last certificate.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct FirstToFail {
    pub spiffe_id: String,
    pub at: String,
}

#[derive(Debug, Serialize)]
pub struct BackupFound {
    pub made_at: String,
    /// Audit records of the CA that are not in it.
    pub records_behind: i64,
    /// Of which version its database is. A restore brings an older one up to date; of one that is too new nothing can be said.
    pub database_version: u32,
}

/// A backup to try.
#[derive(Debug)]
pub struct BackupToTry<'a> {
    pub file: &'a Path,
    pub passphrase: Passphrase,
}

impl Report {
    pub fn is_well(&self) -> bool {
        self.problems.is_empty()
    }

    fn problem(&mut self, what: &str, error: &dyn std::error::Error) {
        self.problems.push(format!("{what}: {}", in_full(error)));
    }
}

/// Looks at the CA in `directory`, beside a running server or without one.
pub fn drill(
    directory: &Path,
    options: &OpenOptions,
    backup: Option<&BackupToTry<'_>>,
    now: SystemTime,
) -> Report {
    let database = options.database_in(directory);
    let mut report = Report {
        checked_at: rfc3339(unix_seconds(now)),
        issuer_ends: None,
        full_lives_until: None,
        identities: 0,
        failed_after: Vec::new(),
        first_to_fail: Vec::new(),
        audit_records: 0,
        free_bytes: None,
        backup: None,
        problems: Vec::new(),
    };
    look_at_key(&mut report, directory, options, now);
    if let Err(error) = look_at_identities(&mut report, &database, now) {
        report.problem("certificates", &error);
    }
    if let Err(error) = look_at_ledger(&mut report, &database) {
        report.problem("ledger", &error);
    }
    look_at_disk(&mut report, directory);
    if let Some(backup) = backup {
        look_at_backup(&mut report, &database, backup);
    }
    report
}

fn look_at_key(report: &mut Report, directory: &Path, options: &OpenOptions, now: SystemTime) {
    match forecast(directory, options, now) {
        Err(error) => report.problem("issuing key", &error),
        Ok(Forecast { issuer_ends }) => {
            let shorter_from = issuer_ends.checked_sub(MAX_TTL).unwrap_or(issuer_ends);
            report.issuer_ends = Some(rfc3339(unix_seconds(issuer_ends)));
            report.full_lives_until = Some(rfc3339(unix_seconds(shorter_from)));
            if shorter_from < now {
                let hours = MAX_TTL.as_secs() / 3600;
                report.problems.push(format!(
                    "issuer: it ends sooner than a certificate of {hours} h"
                ));
            }
        }
    }
}

/// An identity fails with the last of its certificates.
fn look_at_identities(
    report: &mut Report,
    database: &Database,
    now: SystemTime,
) -> Result<(), StoreError> {
    let (identities, first, failed) = store::read(database, |transaction| {
        let all = transaction.only(
            "SELECT count(*) FROM (SELECT spiffe_id FROM certificate WHERE not_after > $1 GROUP BY spiffe_id) AS alive",
            values![now],
        )?;
        let first = transaction.query(
            "SELECT spiffe_id, max(not_after) AS ends FROM certificate WHERE not_after > $1
             GROUP BY spiffe_id ORDER BY ends, spiffe_id LIMIT $2",
            values![now, FIRST],
        )?;
        let mut failed = Vec::new();
        for span in SPANS {
            let row = transaction.only(
                "SELECT count(*) FROM (SELECT max(not_after) AS ends FROM certificate WHERE not_after > $1
                 GROUP BY spiffe_id) AS alive WHERE ends <= $2",
                values![now, now + span],
            )?;
            failed.push(FailedAfter {
                minutes: span.as_secs() / 60,
                identities: row.get(0)?,
            });
        }
        let first = first.iter().map(|row| {
            Ok(FirstToFail {
                spiffe_id: row.get(0)?,
                at: rfc3339(row.get(1)?),
            })
        });
        Ok((
            all.get(0)?,
            first.collect::<store::sql::Result<_>>()?,
            failed,
        ))
    })?;
    report.identities = identities;
    report.first_to_fail = first;
    report.failed_after = failed;
    Ok(())
}

fn look_at_ledger(report: &mut Report, database: &Database) -> Result<(), StoreError> {
    let ledger = ledger::verify(database)?;
    report.audit_records = ledger.records;
    if !ledger.is_intact() {
        report.problems.push(format!("ledger: {ledger}"));
    }
    // Takes the writer's place for a moment and writes nothing.
    store::take_turn(database)
}

fn look_at_disk(report: &mut Report, directory: &Path) {
    match rustix::fs::statvfs(directory) {
        Err(error) => report.problem("disk", &error),
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            report.free_bytes = Some(free);
            if free < ROOM_BYTES {
                report.problems.push(format!(
                    "disk: expected {ROOM_BYTES} bytes of room, found {free}"
                ));
            }
        }
    }
}

fn look_at_backup(report: &mut Report, database: &Database, backup: &BackupToTry<'_>) {
    let contents = match backup::check(backup.file, &backup.passphrase) {
        Ok(found) => found,
        Err(error) => return report.problem("backup", &error),
    };
    let Contents {
        manifest,
        bundle,
        database_version,
    } = contents;
    let Manifest {
        trust_domain: backed_up,
        ledger_seq,
        ledger_hash,
        made_at,
        ..
    } = manifest;
    let now = store::read_settings(database).and_then(|(bundle, _)| {
        let head = store::head(database)?;
        let has_it = match KeyHash::parse(&ledger_hash) {
            Some(KeyHash(hash)) => store::has_head(
                database,
                Head {
                    seq: ledger_seq,
                    hash,
                },
            )?,
            None => false,
        };
        let root = store::read_generations(database)?.root().cloned();
        Ok((bundle.trust_domain().to_string(), head.seq, has_it, root))
    });
    let (trust_domain, seq, has_it, root) = match now {
        Ok(now) => now,
        Err(error) => return report.problem("backup", &error),
    };
    if backed_up != trust_domain {
        report.problems.push(format!(
            "backup: it is of {backed_up}, not of {trust_domain}"
        ));
    }
    if !has_it {
        report.problems.push(format!(
            "backup: its audit record {ledger_seq} is not in the CA's ledger of {seq}: the CA is an older state of itself, or has gone on from one"
        ));
    }
    let root = root.and_then(|root| root.certificate);
    if root.is_some_and(|root| !bundle.authorities().contains(&root)) {
        report.problems.push(
            "backup: it does not know the root that signs now, so that a CA restored from it would not be told that it is an older state; make another"
                .to_owned(),
        );
    }
    report.backup = Some(BackupFound {
        made_at: rfc3339(i64::try_from(made_at).unwrap_or(i64::MAX)),
        records_behind: seq - ledger_seq,
        database_version,
    });
}
