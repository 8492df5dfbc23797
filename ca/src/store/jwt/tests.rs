use super::*;
use crate::revoke::{Reason, Target};
use crate::store::tests::{HOUR, ORDERS, audit, issue, new_ca};

fn record(serial: &str, now: SystemTime) -> TokenRecord {
    TokenRecord {
        serial: serial.to_owned(),
        spiffe_id: SpiffeId::parse(ORDERS).unwrap(),
        audience: vec!["api".to_owned()],
        name: "token".to_owned(),
        kid: "key".to_owned(),
        expires: now + HOUR,
    }
}

#[tokio::test]
async fn who_is_revoked_gets_no_token_by_certificate_identity_or_lineage() {
    let (temporary, ca) = new_ca();
    let (store, now) = (ca.store(), SystemTime::now());
    let (by_serial, by_lineage, by_identity) = (
        issue(&ca).await.unwrap().serial,
        issue(&ca).await.unwrap().serial,
        issue(&ca).await.unwrap().serial,
    );
    // What an operator issued begins a lineage of its own, named by its serial.
    let lineage = crate::lineage::LineageName::new(&*by_lineage);
    for (serial, target) in [
        (&by_serial, Target::Serial(by_serial.clone())),
        (&by_lineage, Target::Lineage(lineage)),
        (
            &by_identity,
            Target::Identity(SpiffeId::parse(ORDERS).unwrap()),
        ),
    ] {
        let given = store.record_token(record(serial, now), now).await.unwrap();
        assert_eq!(given, Ok(()), "{target}");
        let revoked = store.revoke(target.clone(), Reason::KeyCompromise, now);
        revoked.await.unwrap().unwrap();
        let before = audit(&temporary).records;
        let refused = store.record_token(record(serial, now), now).await.unwrap();
        assert!(
            matches!(refused, Err(LineageError::Revoked { .. })),
            "{target}: {refused:?}"
        );
        assert_eq!(audit(&temporary).records, before);
    }
}

#[tokio::test]
async fn of_too_many_keys_those_are_published_that_were_made_last() {
    let (_temporary, ca) = new_ca();
    let (store, now) = (ca.store(), SystemTime::now());
    let point = rcgen::KeyPair::generate()
        .unwrap()
        .public_key_raw()
        .to_vec();
    for number in 0..300 {
        // By name the last comes last.
        let kid = format!("key {number:03}");
        let expires = now + HOUR + std::time::Duration::from_secs(number);
        let published = store.publish_jwt_key(kid, point.clone(), expires, now);
        published.await.unwrap();
    }
    let jwks = store.bundle().await.unwrap().jwt_keys().to_jwks();
    assert!(jwks.contains("key 299") && jwks.contains("key 044"));
    assert!(!jwks.contains("key 043"), "as many as there may be");
}
