use crate::harness::{Ca, within};
use ca::attest::fetch::{HttpsUrl, Server};
use ca::federation::{Endpoint, EndpointOptions, Federation, Options, Profile};
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

/// `ca`'s bundle under a host name; gives what another trust domain is to be configured with.
async fn by_host_name(ca: &Ca, folder: &Path) -> Options {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let file = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let options = EndpointOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        certificate_file: file("web.pem", certificate.pem()),
        key_file: file("web.key", key.serialize_pem()),
    };
    let ca_file = options.certificate_file.clone();
    let endpoint = Endpoint::bind(options, ca.authority.bundle())
        .await
        .unwrap();
    let port = endpoint.address().unwrap().port();
    tokio::spawn(endpoint.run());
    let url = format!("https://localhost:{port}/bundle");
    Options {
        trust_domain: TrustDomain::parse("demo.test").unwrap(),
        profile: Profile::Web(Server {
            url: url.parse().unwrap(),
            ca_file,
            token_file: None,
        }),
    }
}

#[tokio::test]
async fn a_bundle_is_served_and_fetched_under_a_host_name() {
    let ca = Ca::start_with_tokens().await;
    let folder = tempfile::tempdir().unwrap();
    let options = by_host_name(&ca, folder.path()).await;
    let bundle = within(fetched(&Federation::start(vec![options.clone()]))).await;
    assert_eq!(bundle.unwrap(), ca.bundle());

    // Another path has no bundle, and a certificate for another name is not the endpoint's.
    for other in ["https://localhost:PORT/", "https://127.0.0.1:PORT/bundle"] {
        let Profile::Web(server) = &options.profile else {
            panic!("{options:?}")
        };
        let url = server.url.to_string();
        let port = url.rsplit_once(':').unwrap().1.trim_end_matches("/bundle");
        let options = Options {
            profile: Profile::Web(Server {
                url: other.replace("PORT", port).parse().unwrap(),
                ..server.clone()
            }),
            ..options.clone()
        };
        assert!(
            fetched(&Federation::start(vec![options])).await.is_none(),
            "{other}"
        );
    }
}
