use super::super::tests::{issue, new_ca};
use super::*;
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

#[tokio::test]
async fn what_is_accepted_reaches_to_the_last_head_that_was_shown_by_whatever_clock() {
    let (_temporary, ca) = new_ca();
    let (store, now) = (ca.store(), SystemTime::now());
    let mark = store.mark(now).await.unwrap();
    let lost = |seq, ahead_ms| Mark {
        head: Head { seq, hash: [7; 32] },
        signed_ms: mark.signed_ms + ahead_ms,
        ..mark
    };
    let hour = 3_600_000;
    for (seq, ahead) in [(50, hour), (60, 2 * hour), (40, 0)] {
        let heard = store.examine(lost(seq, ahead), now).await.unwrap();
        assert!(matches!(heard, Heard::Lost(_)), "{heard:?}");
    }
    assert_eq!(store.rolled_back().await.unwrap().unwrap().seq, 60);
    store.accept_rollback(now).await.unwrap().unwrap();
    for (seq, ahead) in [(50, hour), (60, 2 * hour), (40, 0)] {
        let heard = store.examine(lost(seq, ahead), now).await.unwrap();
        assert_eq!(heard, Heard::GivenUp);
    }
    // A second CA that goes on with what was given up.
    let heard = store.examine(lost(70, 3 * hour), now).await.unwrap();
    assert!(matches!(heard, Heard::Lost(_)), "{heard:?}");
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
