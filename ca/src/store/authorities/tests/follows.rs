//! What a replica does with authorities that others have made, and cannot or did not take over.

use super::*;
use crate::authority::Fault;
use crate::metrics::Metrics;
use crate::readiness::Monitor;

#[tokio::test]
async fn a_replica_that_cannot_open_the_next_key_is_not_ready_and_signs_with_the_one_it_has() {
    let ca = Ca::new(KeyProtection::Encrypted(passphrase()));
    let before = ca.issuer().await;
    ca.prepare(Role::Intermediate).await.unwrap();
    ca.activate(Role::Intermediate).await.unwrap();
    ca.edit("UPDATE authority SET key_file = replace(key_file, 'nonce: ', 'nonce: AA') WHERE state = 'active'");
    assert!(!ca.authority.read_authorities().await);
    let faults = ca.authority.faults().await;
    assert!(
        faults
            .iter()
            .any(|fault| matches!(fault, Fault::Authority(_)) && fault.is_in_the_way()),
        "{faults:?}"
    );
    assert_eq!(ca.issuer().await, before);
    ca.edit("UPDATE authority SET key_file = replace(key_file, 'nonce: AA', 'nonce: ') WHERE state = 'active'");
    assert!(ca.authority.read_authorities().await);
    assert_eq!(ca.authority.faults().await, []);
    assert_ne!(ca.issuer().await, before);
}

#[tokio::test]
async fn a_replica_that_cannot_open_what_is_prepared_says_so_before_that_signs() {
    let ca = Ca::new(KeyProtection::Encrypted(passphrase()));
    for role in [Role::Intermediate, Role::Root] {
        ca.prepare(role).await.unwrap();
        ca.edit("UPDATE authority SET key_file = replace(key_file, 'nonce: ', 'nonce: AA') WHERE state = 'prepared' AND role = 'intermediate'");
        assert!(ca.authority.read_authorities().await);
        let faults = ca.authority.faults().await;
        assert!(
            matches!(&faults[..], [Fault::Prepared(_)]),
            "{role}: {faults:?}"
        );
        assert!(!faults[0].is_in_the_way(), "it still issues");
        let metrics = Arc::new(Metrics::default());
        let _monitor = Monitor::start(Arc::clone(&ca.authority), Arc::clone(&metrics)).await;
        let series = "tipstaff_ca_prepared_authority_unusable 1\n";
        assert!(metrics.render().contains(series), "{role}");
        ca.issuer().await;
        ca.edit("UPDATE authority SET key_file = replace(key_file, 'nonce: AA', 'nonce: ') WHERE state = 'prepared'");
        assert!(ca.authority.read_authorities().await);
        assert_eq!(ca.authority.faults().await, []);
        ca.activate(role).await.unwrap();
        assert!(ca.authority.read_authorities().await);
    }
}

#[tokio::test]
async fn a_key_that_was_opened_when_it_was_prepared_signs_though_the_passphrase_is_gone() {
    let ca = Ca::new(KeyProtection::Encrypted(passphrase()));
    let before = ca.issuer().await;
    ca.prepare(Role::Intermediate).await.unwrap();
    assert!(ca.authority.read_authorities().await);
    ca.activate(Role::Intermediate).await.unwrap();
    ca.edit("UPDATE authority SET key_file = 'unreadable'");
    assert!(ca.authority.read_authorities().await);
    assert_ne!(ca.issuer().await, before);
}

#[tokio::test]
async fn a_replica_that_has_not_followed_signs_nothing_with_a_key_that_is_retired() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    ca.prepare(Role::Intermediate).await.unwrap();
    ca.activate(Role::Intermediate).await.unwrap();
    ca.issuer().await;
    let forced = Terms {
        force: true,
        ..PATIENT
    };
    let store = ca.authority.store();
    let retired =
        store.retire_authority(Role::Intermediate, forced, By::Operator, SystemTime::now());
    retired.await.unwrap().unwrap();
    let refused = ca.issue().await.unwrap_err();
    assert!(
        matches!(refused, IssueError::Record(StoreError::IssuerDiscarded(_))),
        "{refused}"
    );
    let refused = ca.authority.issue_server().await.unwrap_err();
    assert!(
        matches!(refused, IssueError::Record(StoreError::IssuerDiscarded(_))),
        "{refused}"
    );
    assert!(ca.authority.read_authorities().await);
    ca.issuer().await;
}

#[tokio::test]
async fn what_is_below_a_revoked_root_signs_nothing() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    ca.prepare(Role::Intermediate).await.unwrap();
    ca.issue().await.unwrap();
    let present = ca.authority.store().generations().await.unwrap();
    let root = &present.root().unwrap().name;
    ca.edit(&format!(
        "INSERT INTO barred (kind, name, since, lifted_at, reason) VALUES ('authority', '{root}', 0, NULL, 'superseded')"
    ));
    let refused = ca.issue().await.unwrap_err();
    assert!(
        matches!(refused, IssueError::Record(StoreError::IssuerDiscarded(_))),
        "{refused}"
    );
}
