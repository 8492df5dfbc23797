use super::*;
use crate::store::sql::values;
use crate::store::tests::{ORDERS, id, key, new_ca};
use rusqlite::Connection;
use std::sync::mpsc::{Receiver, channel};

type Answers = Receiver<Result<i64, StoreError>>;

/// A question in SQL, and where its answer comes.
fn question(sql: &'static str) -> (Question, Answers) {
    let (sender, answers) = channel();
    let question: Question = Box::new(move |transaction| {
        let found = transaction.and_then(|transaction| {
            let row = transaction.only(sql, values![]);
            row.and_then(|row| row.get(0))
                .map_err(StoreError::cannot_read)
        });
        let failed = found.as_ref().err().cloned();
        sender.send(found).unwrap();
        failed.map_or(Ok(()), Err)
    });
    (question, answers)
}

#[tokio::test]
async fn what_is_read_does_not_wait_for_who_writes() {
    let (temporary, ca) = new_ca();
    let writing = Connection::open(temporary.path().join("ca/ca.db")).unwrap();
    writing.execute_batch("BEGIN IMMEDIATE").unwrap();
    // The writer would give up after a while.
    assert_eq!(ca.store().enrolment(&key().hash()).await.unwrap(), None);
    assert!(
        ca.store()
            .entries_for(&id(ORDERS))
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(ca.store().word_for("4fa1").await.unwrap(), None);
    writing.execute_batch("ROLLBACK").unwrap();
}

#[tokio::test]
async fn what_was_committed_is_read_and_nothing_can_be_written() {
    let (_temporary, ca) = new_ca();
    let store = ca.store();
    let touched = "SELECT coalesce(max(version), 0) FROM change WHERE topic = 'touched'";
    for times in 1..=100 {
        store.touch().await.unwrap();
        let read = store
            .reader
            .read(|now| now.only(touched, &[])?.get::<i64>(0));
        assert_eq!(read.await.unwrap(), times);
    }
    let write = store
        .reader
        .read(|now| now.execute("DELETE FROM change", &[]));
    assert!(matches!(write.await, Err(StoreError::CannotRead(_))));
    let read = store
        .reader
        .read(|now| now.only(touched, &[])?.get::<i64>(0));
    assert_eq!(read.await.unwrap(), 100);
}

#[test]
fn one_that_fails_takes_those_behind_it_along_and_nobody_waits_for_ever() {
    let (temporary, _ca) = new_ca();
    let database = Database::from(temporary.path().join("ca").as_path());
    let (good, bad) = ("SELECT 7", "SELECT nothing FROM nowhere");
    let (questions, answers): (VecDeque<_>, Vec<_>) =
        [good, bad, good].map(question).into_iter().unzip();
    let mut session = None;
    answer(&database, &mut session, questions);
    let found: Vec<_> = answers
        .iter()
        .map(|answer| answer.recv().unwrap().ok())
        .collect();
    assert_eq!(found, [Some(7), None, None]);

    let (next, found) = question(good);
    answer(&database, &mut session, [next].into());
    assert_eq!(found.recv().unwrap().unwrap(), 7);
}

#[test]
fn who_asks_a_database_that_is_not_there_hears_that() {
    let nowhere = tempfile::tempdir().unwrap();
    let (asked, found) = question("SELECT 7");
    let database = Database::from(nowhere.path());
    answer(&database, &mut None, [asked].into());
    let found = found.recv().unwrap();
    assert!(matches!(found, Err(StoreError::CannotRead(_))), "{found:?}");
}

#[tokio::test]
async fn a_database_that_takes_a_newer_program_is_not_read() {
    let (temporary, ca) = new_ca();
    assert!(ca.store().enrolment(&key().hash()).await.is_ok());
    let newer = Connection::open(temporary.path().join("ca/ca.db")).unwrap();
    let newer = newer.execute(
        "INSERT INTO schema_version (version, oldest) VALUES (1000, 1000)",
        [],
    );
    newer.unwrap();
    let refused = ca.store().enrolment(&key().hash()).await;
    assert!(
        matches!(refused, Err(StoreError::CannotRead(_))),
        "{refused:?}"
    );
}
