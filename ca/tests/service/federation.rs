use crate::harness::{Ca, within};
use ca::attest::fetch::HttpsUrl;
use ca::federation::{Federation, Options, Profile};
use identity::{SpiffeId, TrustBundle, TrustDomain};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// As another trust domain sees `ca`, by a bundle in `file`.
fn options(ca: &Ca, id: &str, file: PathBuf) -> Options {
    let url = format!("https://{}/bundle", ca.address);
    Options {
        trust_domain: TrustDomain::parse("demo.test").unwrap(),
        profile: Profile::Spiffe {
            url: url.parse::<HttpsUrl>().unwrap(),
            id: SpiffeId::parse(id).unwrap(),
            bundle_file: file,
        },
    }
}

/// The bundle as PEM has no sequence, so that one that was fetched is told from it.
fn bundle_file(ca: &Ca, folder: &Path) -> PathBuf {
    let file = folder.join("bundle.pem");
    std::fs::write(&file, ca.bundle().to_pem()).unwrap();
    file
}

async fn fetched(federation: &Federation) -> Option<Arc<TrustBundle>> {
    let mut bundles = federation.bundles();
    let fetched = bundles.wait_for(|all| all.iter().any(|one| one.sequence() > 0));
    let fetched = timeout(Duration::from_secs(3), fetched)
        .await
        .ok()?
        .unwrap();
    fetched.first().cloned()
}

#[tokio::test]
async fn the_bundle_of_another_trust_domain_is_fetched_from_its_ca() {
    let ca = Ca::start_with_tokens().await;
    let folder = tempfile::tempdir().unwrap();
    let file = bundle_file(&ca, folder.path());
    let federation = Federation::start(vec![options(&ca, "spiffe://demo.test/tipstaff/ca", file)]);
    let bundle = within(fetched(&federation)).await.unwrap();
    assert_eq!(bundle, ca.bundle());
    assert!(!bundle.jwt_keys().is_empty());
}

#[tokio::test]
async fn an_endpoint_that_is_not_who_it_should_be_changes_nothing() {
    let (ca, other) = (Ca::start().await, Ca::start().await);
    let folder = tempfile::tempdir().unwrap();
    let file = bundle_file(&ca, folder.path());
    let as_other = options(&ca, "spiffe://demo.test/other", file.clone());
    let federation = Federation::start(vec![as_other]);
    assert!(fetched(&federation).await.is_none(), "it proved another ID");
    assert_eq!(federation.bundles().borrow().len(), 1, "the file's stays");

    // The same name, and another root.
    let impostor = options(&other, "spiffe://demo.test/tipstaff/ca", file);
    let federation = Federation::start(vec![impostor]);
    assert!(fetched(&federation).await.is_none());
    let nobody = options(
        &ca,
        "spiffe://demo.test/tipstaff/ca",
        folder.path().join("none"),
    );
    let federation = Federation::start(vec![nobody]);
    assert!(
        fetched(&federation).await.is_none(),
        "nothing to verify it with"
    );
}
