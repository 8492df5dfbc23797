use super::*;
use crate::ledger::{archive, fingerprint, verify_with_archive};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::JoinSet;

/// How many certificates: 1 000 000 take some minutes.
const SIZE: &str = "PLATEAU_CERTIFICATES";
const ROUND: Duration = Duration::from_secs(300);
const A_ROUND: u64 = 500;
/// A round's certificates live for a round, then for the grace, and wait for a sweep and for what is in the last.
const ROUNDS_KEPT: u64 = (GRACE.as_secs() + INTERVAL.as_secs()) / ROUND.as_secs() + 3;

/// Certificates of five minutes, on a clock of the test: the file grows until as many rows go as come, and then no more.
/// That holds for the audit records, too, when they are archived.
#[tokio::test]
async fn the_file_stops_growing_when_as_much_goes_as_comes() {
    let size = size();
    let rounds = size / A_ROUND;
    assert!(rounds >= 4 * ROUNDS_KEPT, "{SIZE}: too few to tell");
    let (temporary, ca) = new_ca();
    let ca = Arc::new(ca);
    let (mut session, connection) = open(&temporary);
    let path = temporary.path().join("ca");
    let files = temporary.path().join("archive");
    std::fs::create_dir(&files).unwrap();
    let (mut sweep, start, began) = (Sweep::default(), SystemTime::now(), Instant::now());
    let mut pages = Vec::new();
    for round in 0..rounds {
        let now = start + ROUND * u32::try_from(round).unwrap();
        issue_a_round(&ca, round, now).await;
        while sweep.step(&mut session, now).unwrap() {}
        while archive(&path, &files, now - HOUR).unwrap().is_some() {}
        let count = connection.pragma_query_value(None, "page_count", |row| row.get::<_, u64>(0));
        pages.push(count.unwrap());
        if (round + 1) % (rounds / 20).max(1) == 0 {
            println!(
                "{:>8} issued, {:>6} rows, {:>6} audit records, {:.1} MiB, {:.0} s",
                (round + 1) * A_ROUND,
                rows(&connection),
                count_audit(&connection),
                bytes(&path) as f64 / 1024.0 / 1024.0,
                began.elapsed().as_secs_f64()
            );
            assert!(rows(&connection) as u64 <= ROUNDS_KEPT * A_ROUND);
        }
    }
    let half = pages.len() / 2;
    let (grown, later) = (pages[..half].iter().max(), pages[half..].iter().max());
    let (grown, later) = (*grown.unwrap(), *later.unwrap());
    // Serials are random, and so is how full the pages of their index are.
    assert!(
        later <= grown + grown / 20,
        "{grown} pages and then {later}"
    );
    let report = verify_with_archive(&path, &files).unwrap();
    assert!(report.is_intact(), "{report}");
    assert!(report.archived + report.records >= size, "{report}");
    assert!(report.records <= 2 * ROUNDS_KEPT * A_ROUND, "{report}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "whoever has the time says how many"
)]
fn size() -> u64 {
    std::env::var(SIZE).map_or(50_000, |size| size.parse().expect(SIZE))
}

async fn issue_a_round(ca: &Arc<crate::Authority>, round: u64, now: SystemTime) {
    let mut calls = JoinSet::new();
    for number in round * A_ROUND..(round + 1) * A_ROUND {
        let mut record = five_minutes(number, now);
        record.leaf.serial = fingerprint(record.leaf.serial.as_bytes())[..32].to_owned();
        let ca = Arc::clone(ca);
        calls.spawn(async move { ca.store().record_issuance(record, now).await });
    }
    for recorded in calls.join_all().await {
        recorded.unwrap().unwrap();
    }
}

fn count_audit(connection: &Connection) -> usize {
    connection
        .query_row("SELECT count(*) FROM audit", [], |row| row.get(0))
        .unwrap()
}

/// The database and what is beside it.
fn bytes(path: &Path) -> u64 {
    let files = std::fs::read_dir(path).unwrap().flatten();
    let ours = files.filter(|file| file.file_name().to_string_lossy().starts_with("ca.db"));
    ours.map(|file| file.metadata().unwrap().len()).sum()
}
