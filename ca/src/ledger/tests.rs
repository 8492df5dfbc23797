use super::*;
use crate::config::{InitOptions, KeyProtection, OpenOptions};
use crate::csr::PublicKey;
use crate::store::session::{Access, Session};
use crate::{Authority, Request, Requester, directory};
use identity::{SpiffeId, TrustDomain};
use rcgen::{KeyPair, PublicKeyData};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A CA with four records: init and three certificates.
pub(super) async fn ca_with_three_certificates() -> (TempDir, PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("ca");
    let domain = TrustDomain::parse("demo.test").unwrap();
    crate::init(
        &path,
        &InitOptions::new(domain, KeyProtection::InsecurePlaintext),
    )
    .unwrap();
    let ca = Authority::open(&path, &OpenOptions::default()).unwrap();
    for _ in 0..3 {
        let key = KeyPair::generate().unwrap();
        let request = Request {
            id: SpiffeId::parse("spiffe://demo.test/ns/shop/sa/orders").unwrap(),
            dns_names: Default::default(),
            public_key: PublicKey::from_spki(&key.subject_public_key_info()).unwrap(),
            ttl: None,
            until: None,
            requester: Requester::Operator,
        };
        ca.issue(request).await.unwrap();
    }
    (temporary, path)
}

pub(super) fn append(directory: &Path, event: &Event) {
    let mut session = Session::connect(&directory.into(), Access::Write).unwrap();
    let appended = session.transaction(Access::Write, |transaction| {
        Head::read(transaction)?.append(transaction, SystemTime::now(), event)
    });
    appended.unwrap();
}

#[tokio::test]
async fn every_tampering_is_located() {
    type Expected = fn(&Problem) -> bool;
    let cases: &[(&str, Expected)] = &[
        (
            "UPDATE audit SET event = replace(event, 'orders', 'admin') WHERE seq = 3",
            |p| *p == Problem::Changed { seq: 3 },
        ),
        (
            "UPDATE audit SET time_ms = time_ms + 1 WHERE seq = 1",
            |p| *p == Problem::Changed { seq: 1 },
        ),
        ("UPDATE audit SET hash = zeroblob(32) WHERE seq = 2", |p| {
            *p == Problem::Unlinked { seq: 3 }
        }),
        ("UPDATE audit SET event = 'x' WHERE seq = 2", |p| {
            *p == Problem::Unreadable { seq: 2 }
        }),
        ("DELETE FROM audit WHERE seq = 2", |p| {
            *p == Problem::Gap {
                seq: 3,
                expected: 2,
            }
        }),
        ("DELETE FROM audit WHERE seq = 4", |p| {
            matches!(p, Problem::NotRecorded { seq: 4, .. })
        }),
        ("DELETE FROM certificate WHERE audit_seq = 2", |p| {
            matches!(p, Problem::CertificateMissing { seq: 2, .. })
        }),
        (
            "UPDATE certificate SET der = zeroblob(9) WHERE audit_seq = 3",
            |p| matches!(p, Problem::NotRecorded { seq: 3, .. }),
        ),
        (
            "UPDATE certificate SET spiffe_id = 'spiffe://demo.test/x' WHERE audit_seq = 3",
            |p| matches!(p, Problem::NotRecorded { seq: 3, .. }),
        ),
        (
            "INSERT INTO certificate (serial, spiffe_id, not_before, not_after, renew_at, der, audit_seq) SELECT 'ff', spiffe_id, 0, 0, 0, der, 1 FROM certificate WHERE audit_seq = 2",
            |p| matches!(p, Problem::NotRecorded { seq: 1, .. }),
        ),
    ];
    for (sql, expected) in cases {
        let (_temporary, path) = ca_with_three_certificates().await;
        assert!(verify(&path).unwrap().is_intact());
        let connection = Connection::open(path.join(directory::DATABASE)).unwrap();
        connection
            .pragma_update(None, "foreign_keys", false)
            .unwrap();
        connection.execute(sql, []).unwrap();
        let report = verify(&path).unwrap();
        assert!(report.problems.iter().any(expected), "{sql}: {report}");
        assert!(report.to_string().contains("audit chain broken"));
    }
}

#[tokio::test]
async fn a_serial_recorded_twice_is_found() {
    let (_temporary, path) = ca_with_three_certificates().await;
    let connection = Connection::open(path.join(directory::DATABASE)).unwrap();
    let event: String = connection
        .query_row("SELECT event FROM audit WHERE seq = 2", [], |row| {
            row.get(0)
        })
        .unwrap();
    let event = serde_json::from_str(&event).unwrap();
    append(&path, &event);
    let report = verify(&path).unwrap();
    assert!(
        matches!(
            report.problems[..],
            [Problem::RecordedTwice {
                first: 2,
                second: 5,
                ..
            }]
        ),
        "{report}"
    );
}

#[tokio::test]
async fn problems_are_listed_up_to_a_limit() {
    let (_temporary, path) = ca_with_three_certificates().await;
    let connection = Connection::open(path.join(directory::DATABASE)).unwrap();
    for seq in 100..200 {
        connection
            .execute("INSERT INTO audit VALUES (?1, 0, '', x'', x'')", [seq])
            .unwrap();
    }
    let report = verify(&path).unwrap();
    assert_eq!(report.problems.len(), 20);
    assert!(report.further_problems > 0);
}

/// What a sweep may take is what had expired when it was recorded, of what had been issued before.
#[tokio::test]
async fn swept_certificates_are_told_from_missing_ones() {
    let (_temporary, path) = ca_with_three_certificates().await;
    let connection = Connection::open(path.join(directory::DATABASE)).unwrap();
    let ends: i64 = connection
        .query_row("SELECT min(not_after) FROM certificate", [], |row| {
            row.get(0)
        })
        .unwrap();
    connection.execute("DELETE FROM certificate", []).unwrap();
    let sweep = |expired_by| append(&path, &Event::Swept { expired_by });
    sweep(ends - 1);
    let report = verify(&path).unwrap();
    assert_eq!((report.problems.len(), report.swept), (3, 0), "{report}");
    assert!(
        report
            .to_string()
            .contains("no record says that it was swept")
    );

    sweep(ends + 60);
    let report = verify(&path).unwrap();
    assert!(report.is_intact() && report.swept == 3, "{report}");

    // What is issued after a sweep is not excused by it.
    let ca = Authority::open(&path, &OpenOptions::default()).unwrap();
    ca.issue_server().await.unwrap();
    drop(ca);
    sweep(ends - 1);
    connection.execute("DELETE FROM certificate", []).unwrap();
    let report = verify(&path).unwrap();
    assert!(
        matches!(
            report.problems[..],
            [Problem::CertificateMissing { seq: 7, .. }]
        ),
        "{report}"
    );
}

#[tokio::test]
async fn records_are_read_in_order_and_in_pages() {
    let (_temporary, path) = ca_with_three_certificates().await;
    let all = records(&path, 1, 10).unwrap();
    let kinds: Vec<_> = all.iter().map(|record| record.kind.as_str()).collect();
    assert_eq!(kinds, ["initialised", "issued", "issued", "issued"]);
    assert_eq!(records(&path, 2, 2).unwrap(), all[1..3]);
    assert_eq!(records(&path, 5, 10).unwrap(), []);

    let issued = &all[1];
    assert_eq!(issued.seq, 2);
    for time in [&issued.time, issued.fields["not_after"].as_str().unwrap()] {
        time::OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339).unwrap();
    }
    let line = issued.to_string();
    assert!(
        line.starts_with(&format!("2  {}  issued  ", issued.time)),
        "{line}"
    );
    assert!(line.contains(r#"  requester="operator"  "#), "{line}");

    let connection = Connection::open(path.join(directory::DATABASE)).unwrap();
    let forged = "UPDATE audit SET event = '{\"kind\": \"\\u001b[2J\"}' WHERE seq = 2";
    connection.execute(forged, []).unwrap();
    let forged = &records(&path, 2, 1).unwrap()[0];
    assert_eq!(
        (forged.kind.as_str(), forged.fields.len()),
        ("unreadable", 0)
    );
}

#[test]
fn a_reason_is_cut() {
    let refusal = Refusal {
        caller: "spiffe://demo.test/x".to_owned(),
        operation: "renew",
        reason: "é".repeat(1000),
    };
    let Event::Refused { reason, .. } = Event::from(&refusal) else {
        panic!("a refusal is recorded as one");
    };
    assert_eq!(reason.chars().count(), MAX_REASON_CHARS);
}
