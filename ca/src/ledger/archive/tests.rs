use super::*;
use crate::Authority;
use crate::config::OpenOptions;
use crate::ledger::tests::{append, ca_with_three_certificates};
use crate::ledger::{Report, verify, verify_with_archive};
use rusqlite::Connection;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// A CA whose three certificates have been swept, with a fourth that lives.
async fn swept() -> (TempDir, PathBuf, PathBuf) {
    let (temporary, path) = ca_with_three_certificates().await;
    let connection = Connection::open(path.join(directory::DATABASE)).unwrap();
    connection.execute("DELETE FROM certificate", []).unwrap();
    append(
        &path,
        &Event::Swept {
            expired_by: i64::MAX,
        },
    );
    let ca = Authority::open(&path, &OpenOptions::default()).unwrap();
    ca.issue_server().await.unwrap();
    let folder = temporary.path().join("archive");
    fs::create_dir(&folder).unwrap();
    (temporary, path, folder)
}

fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(60)
}

fn with_archive(path: &PathBuf, folder: &Path) -> Report {
    verify_with_archive(path, folder).unwrap()
}

#[tokio::test]
async fn archived_records_leave_the_database_and_the_chain_holds_over_both() {
    let (_temporary, path, folder) = swept().await;
    let before = verify(&path).unwrap();
    assert!(before.is_intact() && before.records == 6, "{before}");

    let segment = archive(&path, &folder, later()).unwrap().unwrap();
    assert_eq!((segment.first, segment.last), (1, 5));
    assert_eq!(
        archive(&path, &folder, later()).unwrap(),
        None,
        "a live one stays"
    );
    let left = verify(&path).unwrap();
    // The record of the certificate that lives, and that of the archiving.
    assert!(left.is_intact() && left.records == 2, "{left}");
    let all = with_archive(&path, &folder);
    assert!(all.is_intact() && all.archived == 5, "{all}");
    assert!(
        all.to_string()
            .contains("2 records, 5 archived, 1 certificates"),
        "{all}"
    );

    // And again, from where it ended.
    let connection = Connection::open(path.join(directory::DATABASE)).unwrap();
    connection.execute("DELETE FROM certificate", []).unwrap();
    append(
        &path,
        &Event::Swept {
            expired_by: i64::MAX,
        },
    );
    let segment = archive(&path, &folder, later()).unwrap().unwrap();
    assert_eq!((segment.first, segment.last), (6, 7));
    let all = with_archive(&path, &folder);
    assert!(all.is_intact() && all.archived == 7, "{all}");
}

#[tokio::test]
async fn young_records_and_those_that_no_sweep_explains_stay() {
    let (_temporary, path, folder) = swept().await;
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    assert_eq!(archive(&path, &folder, hour_ago).unwrap(), None);

    // A certificate that went without a sweep is a problem, which must not leave with its record.
    let (_temporary, path) = ca_with_three_certificates().await;
    let connection = Connection::open(path.join(directory::DATABASE)).unwrap();
    connection
        .execute("DELETE FROM certificate WHERE audit_seq = 2", [])
        .unwrap();
    let segment = archive(&path, &folder, later()).unwrap().unwrap();
    assert_eq!((segment.first, segment.last), (1, 1));
    assert_eq!(archive(&path, &folder, later()).unwrap(), None);
    assert!(!verify(&path).unwrap().is_intact());
}

#[tokio::test]
async fn what_was_changed_or_is_missing_in_the_archive_is_located() {
    type Tampering = fn(&str) -> String;
    type Expected = fn(&Problem) -> bool;
    let cases: [(&str, Tampering, Expected); 5] = [
        (
            "changed",
            |text| text.replace("orders", "admin"),
            |problem| matches!(problem, Problem::Changed { seq: 2..=4 }),
        ),
        (
            "a line taken out",
            |text| without_line(text, 2),
            |problem| {
                *problem
                    == Problem::Gap {
                        seq: 4,
                        expected: 3,
                    }
            },
        ),
        (
            "cut off at the end",
            |text| without_line(text, 4),
            |problem| {
                *problem
                    == Problem::Gap {
                        seq: 6,
                        expected: 5,
                    }
            },
        ),
        (
            "empty",
            |_| String::new(),
            |problem| {
                *problem
                    == Problem::Gap {
                        seq: 6,
                        expected: 1,
                    }
            },
        ),
        (
            "not JSON",
            |text| text.replacen('{', "x", 1),
            |problem| *problem == Problem::Unreadable { seq: 1 },
        ),
    ];
    let (_temporary, path, folder) = swept().await;
    let file = archive(&path, &folder, later()).unwrap().unwrap().file;
    let good = fs::read_to_string(&file).unwrap();
    for (name, tamper, expected) in cases {
        fs::write(&file, tamper(&good)).unwrap();
        let report = with_archive(&path, &folder);
        assert!(report.problems.iter().any(expected), "{name}: {report}");
    }
    fs::write(&file, &good).unwrap();
    assert!(with_archive(&path, &folder).is_intact());
    fs::write(&file, &good[..good.len() - 9]).unwrap();
    assert!(verify_with_archive(&path, &folder).is_err(), "half a line");
}

fn without_line(text: &str, number: usize) -> String {
    let lines = text.lines().enumerate();
    lines
        .filter(|(index, _)| *index != number)
        .map(|(_, line)| format!("{line}\n"))
        .collect()
}

/// The file was written and the machine stopped: nothing had left yet, and the next attempt takes more.
#[tokio::test]
async fn a_file_of_an_attempt_that_was_cut_short_does_no_harm() {
    let (_temporary, path, folder) = swept().await;
    let file = archive(&path, &folder, later()).unwrap().unwrap().file;
    let lines = fs::read_to_string(&file).unwrap();
    let early = folder.join("audit-00000000000000000001-00000000000000000002.jsonl");
    fs::write(
        early,
        lines
            .lines()
            .take(2)
            .map(|line| format!("{line}\n"))
            .collect::<String>(),
    )
    .unwrap();
    let all = with_archive(&path, &folder);
    assert!(all.is_intact() && all.archived == 5, "{all}");
}

#[tokio::test]
async fn a_ca_archives_by_itself_what_is_old_and_leaves_the_rest() {
    let (_temporary, path, folder) = swept().await;
    let mut options = ArchiveOptions {
        folder: folder.clone(),
        older_than: Duration::from_secs(3600),
    };
    let looked = |options: &ArchiveOptions| {
        // Its first look is at once.
        let keeping = keep_archiving(Database::from(&path), options.clone());
        tokio::time::timeout(Duration::from_secs(3), keeping)
    };
    looked(&options).await.expect_err("it goes on");
    let report = with_archive(&path, &folder);
    assert!(report.is_intact() && report.archived == 0, "{report}");
    options.older_than = Duration::ZERO;
    looked(&options).await.expect_err("it goes on");
    let report = with_archive(&path, &folder);
    assert!(report.is_intact() && report.archived == 5, "{report}");
}

#[tokio::test]
async fn an_archive_that_cannot_be_written_loses_nothing() {
    let (_temporary, path, folder) = swept().await;
    let options = ArchiveOptions {
        folder: folder.join("missing"),
        older_than: Duration::ZERO,
    };
    let keeping = keep_archiving(Database::from(&path), options);
    let kept = tokio::time::timeout(Duration::from_secs(3), keeping).await;
    kept.expect_err("it goes on");
    let report = verify(&path).unwrap();
    assert!(report.is_intact() && report.records == 6, "{report}");
}
