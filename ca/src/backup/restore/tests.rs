use super::super::tests::{Ca, ORDERS, issue, list, revoke, taking};
use super::*;
use crate::authority::Authority;
use crate::config::OpenOptions;
use crate::revoke::{MAX_SERIALS, Reason, Target};
use crate::store::TokenGrant;
use crate::token::JoinToken;
use identity::SpiffeId;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs;
use std::time::Duration;

/// Those on PostgreSQL, which no backup of ours brings up to date, went on only after a release of now had served from them.
#[tokio::test]
async fn records_of_any_earlier_release_are_brought_up_to_date_and_go_on() {
    let ca = Ca::new();
    let (dir, was) = (ca.folder.path().join("older"), &ca.dir);
    ca.backup().unwrap();
    ca.issue().await;
    revoke(
        ca.authority.store(),
        Target::Identity(SpiffeId::parse(ORDERS).unwrap()),
    )
    .await;
    for version in 1..store::NEWEST {
        ca.restore_with("older", &RestoreOptions::default())
            .unwrap();
        store::set_back(&dir, version);
        let database = Database::from(&dir);
        assert!(store::is_older(&database).unwrap(), "{version}");
        let settled = settle(&dir, &database, &taking(was.clone())).unwrap();
        assert_eq!(settled.revocations, 2, "{version}");
        let authority = Authority::open(&dir, &OpenOptions::default()).unwrap();
        assert_eq!(list(&authority).identities.len(), 1, "{version}");
        drop(authority);
        fs::remove_dir_all(&dir).unwrap();
    }
}

/// A replica may write while revocations are read, however long that takes.
#[tokio::test]
async fn the_record_that_is_named_is_the_last_before_the_one_that_names_it() {
    let ca = Ca::new();
    let again = Authority::open(&ca.dir, &OpenOptions::default()).unwrap();
    let der = again.crl().await.unwrap();
    let pipe = ca.folder.path().join("last.crl");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let (dir, options) = (ca.dir.clone(), taking(pipe.clone()));
    let settling = std::thread::spawn(move || settle(&dir, &Database::from(&dir), &options));
    // Opens once the list is about to be read.
    let mut writer = fs::File::options().write(true).open(&pipe).unwrap();
    ca.issue().await;
    std::io::Write::write_all(&mut writer, &der).unwrap();
    drop(writer);
    let settled = settling.join().unwrap().unwrap();
    let records = crate::ledger::records(&ca.dir, 1, 100).unwrap();
    let at = records.iter().position(|record| record.kind == "restored");
    let (named, before) = (&records[at.unwrap()], &records[at.unwrap() - 1]);
    assert_eq!(named.fields["seq"], before.seq);
    assert_eq!(settled.ended_at, before.seq);
}

#[tokio::test]
async fn records_that_are_to_go_on_are_no_source_of_what_was_revoked_after_them() {
    let ca = Ca::new();
    let database = Database::from(&ca.dir);
    let link = ca.folder.path().join("link");
    std::os::unix::fs::symlink(&ca.dir, &link).unwrap();
    for place in [ca.dir.clone(), ca.dir.join("."), link] {
        let refused = settle(&ca.dir, &database, &taking(place.clone()));
        let refused = refused.expect_err("they would bring nothing, and look as if they had");
        assert!(matches!(refused, BackupError::SameRecords), "{place:?}");
    }
    let records = crate::ledger::records(&ca.dir, 1, 100).unwrap();
    assert!(records.iter().all(|record| record.kind != "restored"));
}

const FREEZE: &str =
    "INSERT INTO frozen_lineage (lineage, spiffe_id, serial, successor, key_hash, frozen_at)
    VALUES ('copied', 'spiffe://demo.test/ns/shop/sa/orders', '0a', '0b', 'cc', 1)";

#[tokio::test]
async fn lineages_that_were_frozen_after_a_backup_are_frozen_again_and_on_record() {
    let ca = Ca::new();
    ca.backup().unwrap();
    ca.edit(FREEZE);
    let (restored, _authority) = ca.restore_and_open(&taking(ca.dir.clone())).unwrap();
    assert_eq!(restored.settled.frozen_lineages, 1);
    let place = ca.folder.path().join("restored");
    let frozen = crate::inspect::frozen_lineages(&place, 10).unwrap();
    assert_eq!(frozen[0].lineage, "copied");
    let records = crate::ledger::records(&place, 1, 100).unwrap();
    assert_eq!(records.last().unwrap().fields["frozen"], 1);
}

#[tokio::test]
async fn more_certificates_than_sidecars_can_be_told_are_refused_and_restore_nothing() {
    let ca = Ca::new();
    ca.backup().unwrap();
    let revoke = |count: u64| {
        format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT OR IGNORE INTO revocation (serial, spiffe_id, not_after, revoked_at, reason)
             SELECT printf('%08x', i), '', 99999999999, 1, 'unspecified' FROM n"
        )
    };
    ca.edit(&revoke(MAX_SERIALS + 1));
    let refused = ca.restore_with("restored", &taking(ca.dir.clone()));
    let said = crate::causes::in_full(&refused.unwrap_err());
    assert!(said.contains("expected at most 65536 revoked"), "{said}");
    assert!(!ca.folder.path().join("restored").exists());

    ca.edit(&format!("DELETE FROM revocation; {}", revoke(MAX_SERIALS)));
    let (restored, _authority) = ca.restore_and_open(&taking(ca.dir.clone())).unwrap();
    assert_eq!(restored.settled.revocations, MAX_SERIALS);
}

/// Records that the database's own means have brought back may have been served from before anybody settles them.
#[tokio::test]
async fn what_was_revoked_meanwhile_hides_nothing_of_what_was_revoked_before() {
    let ca = Ca::new();
    let before = ca.issue().await;
    ca.backup().unwrap();
    revoke(ca.authority.store(), Target::Serial(before.clone())).await;
    let (cart, orders) = (
        SpiffeId::parse("spiffe://demo.test/cart").unwrap(),
        SpiffeId::parse(ORDERS).unwrap(),
    );
    revoke(ca.authority.store(), Target::Identity(orders.clone())).await;

    let (_, authority) = ca.restore_and_open(&RestoreOptions::default()).unwrap();
    // The list here is later than that of the directory as it was, by any clock.
    revoke(authority.store(), Target::Identity(cart.clone())).await;
    let later = SystemTime::now() + Duration::from_secs(3600);
    let more = Target::Identity(SpiffeId::parse("spiffe://demo.test/more").unwrap());
    let revoked = authority.store().revoke(more, Reason::Unspecified, later);
    revoked.await.unwrap().unwrap();
    let sequence = authority.store().revocations().await.unwrap().sequence;
    let place = ca.folder.path().join("restored");
    let settled = settle(&place, &Database::from(&place), &taking(ca.dir.clone())).unwrap();
    assert_eq!(settled.revocations, 2);
    let list = authority.store().revocations().await.unwrap();
    assert!(list.sequence > sequence);
    assert_eq!(list.identities.len(), 3);
    assert!(list.identities.contains_key(&orders) && list.identities.contains_key(&cart));
}

#[tokio::test]
async fn of_an_identity_the_last_word_counts_whichever_state_has_it() {
    let ca = Ca::new();
    let row = |since: i64, lifted: &str| {
        format!(
            "DELETE FROM barred; INSERT INTO barred (kind, name, since, lifted_at, reason)
             VALUES ('identity', '{ORDERS}', {since}, {lifted}, 'unspecified')"
        )
    };
    for (case, ours, theirs, barred) in [
        ("lifted there since", row(10, "NULL"), row(10, "20"), false),
        ("lifted here since", row(10, "20"), row(10, "NULL"), false),
        ("revoked there again", row(10, "20"), row(30, "NULL"), true),
        ("revoked here again", row(30, "NULL"), row(10, "20"), true),
        ("both in one second", row(10, "10"), row(10, "NULL"), true),
        ("the same here", row(10, "NULL"), row(10, "10"), true),
    ] {
        ca.edit(&ours);
        ca.backup().unwrap();
        ca.edit(&theirs);
        let (_, authority) = ca.restore_and_open(&taking(ca.dir.clone())).unwrap();
        let list = list(&authority);
        let again = list.identities.values().next().unwrap();
        assert_eq!(again.is_none(), barred, "{case}");
        drop(authority);
        fs::remove_file(ca.file()).unwrap();
        fs::remove_dir_all(ca.folder.path().join("restored")).unwrap();
    }
}

#[tokio::test]
async fn unused_tokens_are_void_and_what_came_after_may_be_given_up_at_once() {
    let ca = Ca::new();
    let token = JoinToken::generate();
    let now = SystemTime::now();
    let grant = TokenGrant {
        spiffe_id: SpiffeId::parse(ORDERS).unwrap(),
        created_at: now,
        expires_at: now + Duration::from_secs(3600),
        ttl: None,
    };
    ca.authority
        .store()
        .create_token(&token, grant)
        .await
        .unwrap();
    ca.backup().unwrap();
    ca.issue().await;
    let lost = ca.authority.store().mark(SystemTime::now()).await.unwrap();

    let (restored, authority) = ca.restore_and_open(&RestoreOptions::default()).unwrap();
    assert_eq!(restored.settled.void_tokens, 1);
    let heard = authority
        .store()
        .examine(lost, SystemTime::now())
        .await
        .unwrap();
    assert!(matches!(heard, store::Heard::Lost(_)), "{heard:?}");
    drop(authority);
    fs::remove_dir_all(ca.folder.path().join("restored")).unwrap();

    let options = RestoreOptions {
        accept_rollback: true,
        ..RestoreOptions::default()
    };
    let (_, authority) = ca.restore_and_open(&options).unwrap();
    let heard = authority
        .store()
        .examine(lost, SystemTime::now())
        .await
        .unwrap();
    assert_eq!(heard, store::Heard::GivenUp);
    issue(&authority).await;
    let place = ca.folder.path().join("restored");
    let records = crate::ledger::records(&place, 1, 100).unwrap();
    let record = records
        .iter()
        .find(|record| record.kind == "restored")
        .unwrap();
    assert_eq!(record.fields["accepted"], true);
}
