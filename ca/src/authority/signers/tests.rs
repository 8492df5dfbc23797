use super::*;
use crate::config::{InitOptions, KeyProtection};
use crate::rotation::{By, Lives, Role, prepare};
use crate::store::Terms;
use identity::TrustDomain;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(60 * 60);

#[tokio::test]
async fn the_server_is_certified_under_the_old_root_while_that_lasts_however_long_it_stays() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    let domain = TrustDomain::parse("demo.test").unwrap();
    let options = InitOptions::new(domain, KeyProtection::InsecurePlaintext);
    crate::init(&dir, &options).unwrap();
    let options = OpenOptions::default();
    let authority = Authority::open(&dir, &options).unwrap();
    let (store, lives, now) = (authority.store(), Lives::default(), SystemTime::now());
    prepare(&dir, &options, store, Role::Root, lives, By::Operator)
        .await
        .unwrap();
    let terms = Terms {
        percent: 100,
        published_for: Duration::ZERO,
        force: false,
    };
    let activated = store.activate_authority(Role::Root, terms, By::Operator, now);
    activated.await.unwrap().unwrap();
    assert!(authority.read_authorities().await);
    let old = authority.server_signer(now);
    assert_ne!(old.root, authority.signer().root);

    // Nothing is read again meanwhile.
    let end = old.issuer_validity.not_after;
    let just_before = authority.server_signer(end - DEFAULT_TTL - HOUR);
    assert_eq!(just_before.root, old.root);
    let at_last = authority.server_signer(end - HOUR);
    assert_eq!(at_last.root, authority.signer().root);
}
