//! What is prepared and given up.

use super::*;

#[tokio::test]
async fn a_root_that_is_given_up_leaves_the_bundle_and_another_is_prepared_in_its_place() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    let before = ca.issuer().await;
    let Prepared::Ready(name) = ca.prepare(Role::Root).await.unwrap() else {
        panic!("the root's key is here");
    };
    let step = ca.abandon(Role::Root).await.unwrap();
    assert_eq!(step.authorities[0], name);
    assert_eq!(step.authorities.len(), 2, "with its intermediate");
    let store = ca.authority.store();
    let bundle = store.bundle().await.unwrap();
    assert_eq!((bundle.authorities().len(), bundle.sequence()), (1, 3));
    let present = store.generations().await.unwrap();
    for one in &step.authorities {
        let one = present.named(one).unwrap();
        assert_eq!((one.state, one.key.0.is_some()), (State::Retired, false));
    }
    let refused = Err(Refused::NothingPrepared(Role::Root));
    assert_eq!(ca.activate(Role::Root).await, refused);
    assert_eq!(ca.abandon(Role::Root).await, refused);
    assert!(ca.authority.read_authorities().await);
    assert_eq!(ca.issuer().await, before);

    let next = ca.prepare(Role::Root).await.unwrap();
    assert_ne!(next, Prepared::Ready(name));
    ca.activate(Role::Root).await.unwrap();
    let report = crate::ledger::verify(&ca.dir).unwrap();
    assert!(report.is_intact(), "{report}");
}

#[tokio::test]
async fn what_is_given_up_of_one_role_leaves_what_is_prepared_of_the_other_and_what_signs() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    ca.prepare(Role::Root).await.unwrap();
    let intermediate = ca.prepare(Role::Intermediate).await.unwrap();
    let step = ca.abandon(Role::Intermediate).await.unwrap();
    assert_eq!(intermediate, Prepared::Ready(step.authorities[0].clone()));
    assert_eq!(step.authorities.len(), 1);
    let store = ca.authority.store();
    assert_eq!(store.bundle().await.unwrap().sequence(), 2, "as it was");
    ca.activate(Role::Root).await.unwrap();
    let refused = ca.abandon(Role::Root).await;
    assert_eq!(refused, Err(Refused::NothingPrepared(Role::Root)));
}

#[tokio::test]
async fn a_request_that_is_given_up_takes_no_chain_any_more() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    let root_key = fs::read_to_string(ca.dir.join("root.key")).unwrap();
    fs::remove_file(ca.dir.join("root.key")).unwrap();
    let Prepared::Requested(request) = ca.prepare(Role::Intermediate).await.unwrap() else {
        panic!("the root's key is elsewhere");
    };
    ca.abandon(Role::Intermediate).await.unwrap();
    let chain = signed_elsewhere(&ca.dir, &root_key, &request).into_bytes();
    let (options, store) = (&ca.options, ca.authority.store());
    let taken = rotation::accept(options, store, Role::Intermediate, chain, By::Operator).await;
    assert!(
        matches!(taken, Err(PrepareError::NothingRequested)),
        "{taken:?}"
    );
}

#[tokio::test]
async fn a_request_that_is_given_up_while_its_chain_is_looked_at_does_not_come_back() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    fs::remove_file(ca.dir.join("root.key")).unwrap();
    ca.prepare(Role::Intermediate).await.unwrap();
    let store = ca.authority.store();
    let present = store.generations().await.unwrap();
    let mut signed = present.requested().unwrap().clone();
    signed.state = State::Prepared;
    signed.parent = present.root().map(|root| root.name.clone());
    let name = signed.name.clone();
    ca.abandon(Role::Intermediate).await.unwrap();
    let new = New {
        role: Role::Intermediate,
        adopted: Vec::new(),
        made: vec![signed],
    };
    let late = store.prepare_authority(new, By::Operator, SystemTime::now());
    let in_use = Refused::KeyInUse {
        name,
        state: State::Retired,
    };
    assert_eq!(late.await.unwrap().unwrap_err(), in_use);
    let refused = ca.activate(Role::Intermediate).await;
    assert_eq!(refused, Err(Refused::NothingPrepared(Role::Intermediate)));
}
