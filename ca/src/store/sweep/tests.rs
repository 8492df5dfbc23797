use super::*;
use crate::directory;
use crate::entries::MAX_RECOVERY_GRACE;
use crate::revoke::{Reason, Target};
use crate::store::CertificateRecord;
use crate::store::tests::{HOUR, ORDERS, audit, issue, new_ca, token};
use rusqlite::{Connection, params};
use tempfile::TempDir;

/// A long life in short: the file stops growing.
mod plateau;

/// The store's way to the database, and another that no statement of ours takes.
fn open(temporary: &TempDir) -> (Session, Connection) {
    let directory = temporary.path().join("ca");
    (
        Session::connect(&(&directory).into(), Access::Write).unwrap(),
        Connection::open(directory.join(directory::DATABASE)).unwrap(),
    )
}

fn rows(connection: &Connection) -> usize {
    connection
        .query_row("SELECT count(*) FROM certificate", [], |row| row.get(0))
        .unwrap()
}

#[tokio::test]
async fn expired_certificates_are_swept_and_the_chain_stays_whole() {
    let (temporary, ca) = new_ca();
    for _ in 0..3 {
        issue(&ca).await.unwrap();
    }
    let (mut session, connection) = open(&temporary);
    let (mut sweep, expired) = (Sweep::default(), SystemTime::now() + HOUR + GRACE);
    let before = audit(&temporary);

    let in_time = expired - Duration::from_secs(60);
    assert!(!sweep.step(&mut session, in_time).unwrap(), "not yet");
    assert_eq!(audit(&temporary).records, before.records, "no idle records");

    let expired = expired + HOUR;
    for _ in 0..3 {
        assert!(!sweep.step(&mut session, expired).unwrap(), "done");
    }
    let report = audit(&temporary);
    assert!(report.is_intact(), "{report}");
    assert_eq!((report.certificates, report.swept), (0, 3));
    assert_eq!(report.records, before.records + 1);

    // A clock that was ahead and is set right does not keep the sweep from its work.
    issue(&ca).await.unwrap();
    sweep.step(&mut session, SystemTime::now()).unwrap();
    assert_eq!(rows(&connection), 1);
    sweep.step(&mut session, expired).unwrap();
    assert_eq!(rows(&connection), 0);
}

#[tokio::test]
async fn a_sweep_takes_so_many_rows_at_a_time_and_announces_first() {
    let (temporary, ca) = new_ca();
    let (mut session, connection) = open(&temporary);
    connection
        .pragma_update(None, "foreign_keys", false)
        .unwrap();
    for seq in 0..2 * MAX_ROWS {
        connection
            .execute(
                "INSERT INTO certificate (serial, spiffe_id, not_before, not_after, renew_at, der, audit_seq) VALUES (?1, 'x', 0, 0, 0, x'00', ?2)",
                params![seq.to_string(), 1000 + seq],
            )
            .unwrap();
    }
    let (mut sweep, now) = (Sweep::default(), SystemTime::now());
    let mut left = Vec::new();
    while sweep.step(&mut session, now).unwrap() {
        left.push(rows(&connection));
    }
    assert_eq!((left, rows(&connection)), (vec![MAX_ROWS as usize, 0], 0));

    // Without room for the announcement nothing goes.
    connection
        .execute(
            "INSERT INTO certificate (serial, spiffe_id, not_before, not_after, renew_at, der, audit_seq) VALUES ('f', 'x', 0, 0, 0, x'00', 9999)",
            [],
        )
        .unwrap();
    connection
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE (ABORT, 'full'); END",
        )
        .unwrap();
    let mut sweep = Sweep::default();
    for _ in 0..2 {
        sweep.step(&mut session, now).unwrap_err();
        assert_eq!(rows(&connection), 1);
    }
    drop(ca);
}

#[tokio::test]
async fn tokens_are_forgotten_long_after_they_expired() {
    let (temporary, ca) = new_ca();
    token(ca.store(), ORDERS).await;
    let (mut session, connection) = open(&temporary);
    let end = SystemTime::now() + HOUR + TOKEN_GRACE;
    for (now, expected) in [(end - HOUR / 2, 1), (end + HOUR / 2, 0)] {
        Sweep::default().step(&mut session, now).unwrap();
        let left: u32 = connection
            .query_row("SELECT count(*) FROM join_token", [], |row| row.get(0))
            .unwrap();
        assert_eq!(left, expected);
    }
}

#[tokio::test]
async fn as_long_as_an_expired_certificate_may_be_recovered_it_is_known_whether_it_was_revoked() {
    let (temporary, ca) = new_ca();
    let issued = issue(&ca).await.unwrap();
    let target = Target::Serial(issued.serial);
    let revoked = ca
        .store()
        .revoke(target, Reason::KeyCompromise, SystemTime::now());
    revoked.await.unwrap().unwrap();
    let (mut session, connection) = open(&temporary);
    // By the clock of a replica that is ahead of the one that is asked.
    let last = issued.not_after + MAX_RECOVERY_GRACE + Duration::from_secs(5 * 60);
    for (now, expected) in [(last, 1), (last + HOUR, 0)] {
        Sweep::default().step(&mut session, now).unwrap();
        let left: u32 = connection
            .query_row("SELECT count(*) FROM revocation", [], |row| row.get(0))
            .unwrap();
        assert_eq!(left, expected);
    }
}

#[tokio::test]
async fn the_writer_sweeps_by_itself() {
    let (temporary, ca) = new_ca();
    let (_, connection) = open(&temporary);
    connection
        .execute(
            "INSERT INTO certificate (serial, spiffe_id, not_before, not_after, renew_at, der, audit_seq) VALUES ('f', 'x', 0, 0, 0, x'00', 1)",
            [],
        )
        .unwrap();
    issue(&ca).await.unwrap();
    assert_eq!(rows(&connection), 2, "not for a command");
    ca.store().sweep();
    issue(&ca).await.unwrap();
    // It begins once the caller has its answer.
    let swept = async {
        while rows(&connection) > 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), swept)
        .await
        .expect("it is swept");
    let left: u32 = connection
        .query_row(
            "SELECT count(*) FROM certificate WHERE serial = 'f'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_clock_that_is_far_ahead_of_the_last_sweep_takes_nothing() {
    let (temporary, ca) = new_ca();
    let (mut session, connection) = open(&temporary);
    // As the database of a CA looks whose clock is a day ahead now.
    let yesterday = SystemTime::now() - 24 * HOUR;
    session
        .transaction(Access::Write, |transaction| {
            crate::store::writer::clock::save(transaction, unix_seconds(yesterday))
        })
        .unwrap();
    connection
        .execute(
            "INSERT INTO certificate (serial, spiffe_id, not_before, not_after, renew_at, der, audit_seq) VALUES ('f', 'x', 0, ?1, 0, x'00', 1)",
            [unix_seconds(yesterday + HOUR)],
        )
        .unwrap();
    ca.store().sweep();
    // Each write is followed by its sweep before the next one begins.
    for issued in 1..=3 {
        issue(&ca).await.unwrap();
        assert_eq!(rows(&connection), 1 + issued);
    }
}

fn five_minutes(number: u64, now: SystemTime) -> CertificateRecord {
    CertificateRecord {
        leaf: identity::Leaf {
            id: identity::SpiffeId::parse(ORDERS).unwrap(),
            serial: format!("{number:032x}"),
            not_before: now,
            not_after: now + Duration::from_secs(300),
        },
        renew_at: now,
        der: vec![0; 700].into(),
        dns_names: Default::default(),
        requester: crate::Requester::Operator,
        key: crate::csr::KeyHash([0; 32]),
        issuer: crate::csr::KeyHash([0; 32]),
    }
}

/// Else the thief of a certificate's key would have it renewed for a minute, and once that is forgotten its owner would be
/// its first successor again.
#[tokio::test]
async fn a_successor_is_remembered_for_as_long_as_what_it_succeeded_may_be_renewed() {
    let (temporary, ca) = new_ca();
    let (mut session, connection) = open(&temporary);
    let start = SystemTime::now();
    let record = |number: u8, after: Option<u8>, life| {
        let mut record = five_minutes(number.into(), start);
        record.leaf.not_after = start + life;
        record.key = crate::csr::KeyHash([number; 32]);
        if let Some(after) = after {
            let serial = format!("{after:032x}");
            record.requester = crate::Requester::Svid {
                serial,
                attested: None,
            };
        }
        ca.store().record_issuance(record, start)
    };
    record(1, None, 24 * HOUR).await.unwrap().unwrap();
    record(2, Some(1), HOUR / 60).await.unwrap().unwrap();
    record(3, Some(2), 24 * HOUR).await.unwrap().unwrap();

    let later = start + 3 * HOUR;
    let before = audit(&temporary).records;
    assert!(!Sweep::default().step(&mut session, later).unwrap());
    assert_eq!((rows(&connection), audit(&temporary).records), (3, before));
    let second = record(4, Some(1), HOUR).await.unwrap();
    assert!(matches!(
        second,
        Err(crate::lineage::LineageError::SecondSuccessor { .. })
    ));
    // In the end all of it goes.
    for hours in [26, 27] {
        Sweep::default()
            .step(&mut session, start + hours * HOUR)
            .unwrap();
    }
    assert_eq!(rows(&connection), 0);
}

#[tokio::test]
async fn a_time_is_far_ahead_that_no_sweep_has_come_near() {
    let (temporary, ca) = new_ca();
    let now = SystemTime::now();
    let (mut session, _connection) = open(&temporary);
    session
        .transaction(Access::Write, |transaction| {
            crate::store::writer::clock::save(transaction, unix_seconds(now - HOUR))
        })
        .unwrap();
    assert!(!ca.store().is_far_ahead(now).await.unwrap());
    assert!(ca.store().is_far_ahead(now + 2 * HOUR).await.unwrap());
}
