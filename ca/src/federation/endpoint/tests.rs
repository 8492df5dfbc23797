use super::*;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ClientConfig;
use tokio_rustls::TlsConnector;

/// Certificate and key for `localhost`, in PEM.
fn pair() -> [String; 2] {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    [params.self_signed(&key).unwrap().pem(), key.serialize_pem()]
}

/// What it serves is another test's matter; an authority has to be a CA's.
fn bundle() -> TrustBundle {
    let domain = identity::TrustDomain::parse("demo.test").unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let validity = crate::profile::Validity::of_ca(std::time::SystemTime::now(), LOOK);
    let authority = crate::profile::root(&domain, &key, validity).unwrap();
    let authority = authority.self_signed(&key).unwrap().der().clone();
    TrustBundle::new(domain, vec![authority], 1).unwrap()
}

#[tokio::test]
async fn replaced_files_are_taken_and_files_of_no_use_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let options = EndpointOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        certificate_file: folder.path().join("web.pem"),
        key_file: folder.path().join("web.key"),
    };
    let write = |[certificate, key]: [&str; 2]| {
        std::fs::write(&options.certificate_file, certificate).unwrap();
        std::fs::write(&options.key_file, key).unwrap();
    };
    let root = pair()[0].clone();
    let bundle = watch::Sender::new(Arc::new(bundle()));

    let ([one, one_key], [two, two_key]) = (pair(), pair());
    write([&one, &two_key]);
    let bound = Endpoint::bind(options.clone(), bundle.subscribe()).await;
    assert!(matches!(bound, Err(EndpointError::Tls(_))), "{bound:?}");
    write([&one, &one_key]);
    let bound = Endpoint::bind(options.clone(), bundle.subscribe()).await;
    let mut endpoint = bound.unwrap();
    let held = endpoint.tls.subscribe();
    for [certificate, key] in [[&two, &one_key], [&one, &root], [&String::new(), &two_key]] {
        write([certificate, key]);
        endpoint.look().await;
        assert!(!held.has_changed().unwrap(), "{certificate} {key}");
    }
    write([&two, &two_key]);
    endpoint.look().await;
    assert!(held.has_changed().unwrap());
}

/// How long a client that completes its handshake or not, and then says nothing, is served.
async fn served(completes: bool) -> Duration {
    let [certificate, key] = pair();
    let credentials = Credentials {
        chain: certificate.clone().into(),
        key: key.into_bytes().into(),
    };
    let (theirs, ours) = tokio::io::duplex(16 * 1024);
    let client = async {
        if !completes {
            return (Some(theirs), None);
        }
        let mut roots = rustls::RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        roots.add(root).unwrap();
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "localhost".try_into().unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        (None, Some(connector.connect(name, theirs).await.unwrap()))
    };
    let acceptor = TlsAcceptor::from(credentials.config().unwrap());
    let bundle = watch::Sender::new(Arc::new(bundle()));
    let document = Rendered::new(bundle.subscribe(), document);
    let begun = tokio::time::Instant::now();
    let (_left, ()) = tokio::join!(client, serve(acceptor, ours, &document));
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_loses_its_place_soon() {
    let patience = Duration::from_millis(100);
    for completes in [false, true] {
        let served = timeout(CONNECTION_TIME, served(completes)).await;
        let served = served.expect("a deadline of its own");
        assert!(served < SILENCE + patience, "{completes}: {served:?}");
    }
}

#[test]
fn addresses_at_their_pace_have_no_limit_together() {
    let room = Room::new();
    let of = |n: u32| IpAddr::from((0x7f00_0000 + n).to_be_bytes());
    for n in 0..200 {
        for _ in 0..CONNECTIONS_PER_MINUTE {
            assert!(room.admit(of(n)).is_some(), "{n}");
        }
        assert!(room.admit(of(n)).is_none(), "{n} and its pace");
    }
}
