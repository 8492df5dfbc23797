use super::*;
use crate::config::{InitOptions, KeyProtection};
use crate::keys::KeyError;
use crate::rotation::{By, Lives, Role, prepare};
use crate::signer::SignError;
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

#[test]
fn a_pin_that_was_refused_is_not_tried_again_whatever_else_is_wrong() {
    let (token, fault) = (|| "hsm".to_owned(), || "so it says".to_owned());
    let of = |source| OpenError::Generation {
        name: "one".to_owned(),
        source: KeyError::Sign(source),
    };
    let pin = || {
        of(SignError::Pin {
            token: token(),
            fault: fault(),
        })
    };
    let missing = || {
        of(SignError::Missing {
            token: token(),
            fault: fault(),
        })
    };
    assert!(pin().is_final() && !missing().is_final());
    assert!(!OpenError::Interrupted.is_final());
    for (known, error, is_final) in [
        (None, pin(), true),
        (None, missing(), false),
        (Some(pin()), missing(), true),
        (Some(missing()), pin(), true),
        (Some(missing()), missing(), false),
    ] {
        let said = format!("{known:?}, {error:?}");
        assert_eq!(graver(known, error).is_final(), is_final, "{said}");
    }
}
