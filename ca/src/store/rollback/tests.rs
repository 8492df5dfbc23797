use super::super::Terms;
use super::super::tests::{issue, new_ca};
use super::*;
use crate::Authority;
use crate::authority::Verdict;
use crate::config::OpenOptions;
use crate::rotation::{self, Blocker, By, Lives, PrepareError, Refused, Role};
use rusqlite::Connection;
use std::path::Path;
use std::time::Duration;

fn raw(directory: &Path, sql: &str) {
    let database = Connection::open(directory.join(crate::directory::DATABASE)).unwrap();
    database.execute_batch(sql).unwrap();
}

#[tokio::test]
async fn records_that_are_set_back_below_a_running_ca_stop_it_without_a_sidecar() {
    let (temporary, ca) = new_ca();
    let server = ca.issue_server().await.unwrap().svid;
    ca.publish_head(&server).await.unwrap();
    assert_eq!(ca.store().rolled_back().await.unwrap(), None);
    issue(&ca).await.unwrap();

    raw(
        &temporary.path().join("ca"),
        "DELETE FROM descent; DELETE FROM certificate; DELETE FROM audit WHERE seq > 1",
    );
    ca.publish_head(&server).await.unwrap();
    let found = ca.store().rolled_back().await.unwrap().unwrap();
    assert_eq!(found.seq, 2);
    assert!(issue(&ca).await.is_err());
    ca.issue_server().await.unwrap();
}

fn is_lost(heard: &Heard, seq: i64) -> bool {
    matches!(heard, Heard::Lost(lost) if lost.seq == seq)
}

#[tokio::test]
async fn what_is_accepted_is_all_that_was_shown_and_by_whatever_clock() {
    let (_temporary, ca) = new_ca();
    let (store, now) = (ca.store(), SystemTime::now());
    let mark = store.mark(now).await.unwrap();
    // The acceptance of a clock that was an hour ahead was lost as well.
    let hour = 3_600_000;
    let lost = |seq, ahead_ms| Mark {
        head: Head { seq, hash: [7; 32] },
        accepted_ms: mark.signed_ms + ahead_ms,
        ..mark
    };
    let shown = [lost(50, hour), lost(60, hour), lost(40, 0)];
    let furthest = [50, 60, 60];
    for (mark, furthest) in shown.iter().zip(furthest) {
        let heard = store.examine(*mark, now).await.unwrap();
        assert!(is_lost(&heard, furthest), "{heard:?}");
    }
    store.accept_rollback(60, now).await.unwrap().unwrap();
    for mark in shown {
        let heard = store.examine(mark, now).await.unwrap();
        assert_eq!(heard, Heard::GivenUp);
    }
    // A later acceptance that is not on record stops issuance, although its record is there.
    let mark = store.mark(now).await.unwrap();
    assert_eq!(store.examine(mark, now).await.unwrap(), Heard::OnRecord);
    let later = Mark {
        accepted_ms: mark.accepted_ms + 1,
        ..mark
    };
    let heard = store.examine(later, now).await.unwrap();
    assert!(is_lost(&heard, mark.head.seq), "{heard:?}");
}

#[tokio::test]
async fn nothing_is_accepted_but_what_the_operator_names() {
    let (_temporary, ca) = new_ca();
    let (store, now) = (ca.store(), SystemTime::now());
    assert_eq!(store.accept_rollback(1, now).await.unwrap(), Ok(None));
    let lost = lose(&ca, 50).await;
    for seq in [1, 49, 51] {
        let refused = store.accept_rollback(seq, now).await.unwrap().unwrap_err();
        assert_eq!((refused.lost.seq, refused.found), (50, seq));
    }
    assert!(issue(&ca).await.is_err());
    let accepted = store.accept_rollback(50, now).await.unwrap();
    assert_eq!(accepted, Ok(Some(lost)));
    issue(&ca).await.unwrap();
}

/// A sidecar shows a head that the ledger does not lead to.
async fn lose(ca: &Authority, seq: i64) -> RolledBack {
    let now = SystemTime::now();
    let lost = Mark {
        head: Head { seq, hash: [7; 32] },
        ..ca.store().mark(now).await.unwrap()
    };
    match ca.store().examine(lost, now).await.unwrap() {
        Heard::Lost(lost) => lost,
        heard => panic!("{heard:?}"),
    }
}

#[tokio::test]
async fn a_clock_that_was_ahead_at_an_acceptance_does_not_make_later_heads_worthless() {
    let (_temporary, ca) = new_ca();
    lose(&ca, 50).await;
    let ahead = SystemTime::now() + Duration::from_secs(1000 * 24 * 3600);
    ca.store()
        .accept_rollback(50, ahead)
        .await
        .unwrap()
        .unwrap();
    let server = ca.issue_server().await.unwrap().svid;
    ca.publish_head(&server).await.unwrap();
    let head = ca.ledger_head().borrow().clone().unwrap();
    // Its certificate is valid when it says that it was signed.
    assert_eq!(ca.hear_of(&head).await.unwrap(), Verdict::Known);
}

#[tokio::test]
async fn a_ledger_that_was_set_back_rotates_nothing_and_what_sidecars_had_of_it_counts_for_no_root()
{
    let (temporary, ca) = new_ca();
    let directory = temporary.path().join("ca");
    let (store, now) = (ca.store(), SystemTime::now());
    let options = OpenOptions::default();
    let prepare = |role| {
        let lives = Lives::default();
        rotation::prepare(&directory, &options, store, role, lives, By::Operator)
    };
    let terms = Terms {
        percent: 100,
        published_for: Duration::ZERO,
        force: false,
    };
    let activate = || store.activate_authority(Role::Root, terms, By::Operator, now);
    let has = async || match activate().await.unwrap() {
        Err(Refused::Blocked(blockers)) => match &blockers[..] {
            [Blocker::NotAcknowledged { laggards, .. }] => laggards[0].sequence,
            _ => panic!("{blockers:?}"),
        },
        other => panic!("{other:?}"),
    };
    let serial = issue(&ca).await.unwrap().serial;
    store.acknowledge(serial.clone(), 1).await.unwrap();
    prepare(Role::Root).await.unwrap();
    // Of before the database was restored: this CA has come to 2.
    store.acknowledge(serial.clone(), 3).await.unwrap();
    assert_eq!(has().await, 1);
    // And one that had the same sequence.
    store.acknowledge(serial.clone(), 2).await.unwrap();

    lose(&ca, 50).await;
    let stopped = |error: &StoreError| matches!(error, StoreError::RolledBack(_));
    assert!(stopped(&activate().await.unwrap_err()));
    let retired = store.retire_authority(Role::Root, terms, By::Operator, now);
    assert!(stopped(&retired.await.unwrap_err()));
    let prepared = prepare(Role::Intermediate).await.unwrap_err();
    assert!(matches!(prepared, PrepareError::Store(error) if stopped(&error)));

    store.accept_rollback(50, now).await.unwrap().unwrap();
    assert_eq!(has().await, 1);
    let published = store.bundle().await.unwrap().sequence();
    store.acknowledge(serial, published).await.unwrap();
    activate().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_head_of_records_that_are_in_files_stops_nothing() {
    let (temporary, ca) = new_ca();
    let mark = ca.store().mark(SystemTime::now()).await.unwrap();
    issue(&ca).await.unwrap();
    raw(
        &temporary.path().join("ca"),
        "DELETE FROM audit WHERE seq = 1",
    );
    let later = SystemTime::now() + Duration::from_secs(1);
    let heard = ca.store().examine(mark, later).await.unwrap();
    assert_eq!(heard, Heard::OnRecord);
}
