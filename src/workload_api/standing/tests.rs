use super::*;
use identity::{PortableSvid, TrustBundle, TrustDomain};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use workload::FederatesWith;
use zeroize::Zeroizing;

const ID: &str = "spiffe://a.test/web";

/// A root, and a certificate of its that has an hour and more to live.
fn certificate() -> (Arc<TrustBundle>, Arc<PortableSvid>) {
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let der = root.self_signed(&root_key).unwrap().der().clone();
    let mut leaf = CertificateParams::default();
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let issuer = Issuer::from_params(&root, &root_key);
    let chain = vec![leaf.signed_by(&key, &issuer).unwrap().der().clone()];
    let bundle = TrustBundle::new(TrustDomain::parse("a.test").unwrap(), vec![der], 1);
    let svid = PortableSvid::new(chain, Zeroizing::new(key.serialize_der()));
    (Arc::new(bundle.unwrap()), Arc::new(svid.unwrap()))
}

fn identity(svid: Option<&Arc<PortableSvid>>, entitled: Entitled) -> Identity {
    Identity {
        id: SpiffeId::parse(ID).unwrap(),
        svid: svid.cloned(),
        hint: String::new(),
        tokens: tokio::sync::mpsc::channel(1).0,
        entitled,
        federates_with: FederatesWith::All,
    }
}

fn standings(
    own: Arc<TrustBundle>,
    identity: Identity,
) -> (watch::Sender<Arc<Holdings>>, Standings) {
    let (sender, holdings) = watch::channel(Arc::new(Holdings {
        identities: vec![identity],
        own,
        federated: Vec::new(),
    }));
    let client = watch::channel(ClientState::Enrolling).1;
    let clients = vec![client];
    (sender, Standings { holdings, clients })
}

#[test]
fn an_identity_is_as_good_as_its_certificate_at_that_time() {
    let (own, svid) = certificate();
    let end = svid.leaf().not_after;
    let (before, second) = (SystemTime::now(), Duration::from_secs(1));
    for (svid, entitled, at, expected) in [
        (Some(&svid), Entitled::Admitted, before, State::Valid),
        (Some(&svid), Entitled::Admitted, end - second, State::Valid),
        (Some(&svid), Entitled::Admitted, end, State::Expired),
        (None, Entitled::Admitted, before, State::Missing),
        (None, Entitled::Nobody, before, State::Revoked),
    ] {
        let (_sender, standings) = standings(Arc::clone(&own), identity(svid, entitled));
        assert_eq!(standings.at(at)[0].state, expected);
    }
}

#[tokio::test]
async fn a_sidecar_is_not_ready_while_its_workload_has_no_certificate() {
    let (own, svid) = certificate();
    let (sender, standings) = standings(own, identity(None, Entitled::Admitted));
    let readiness = Readiness::new();
    let holding = tokio::spawn(standings.hold_back(readiness.clone()));
    let change = |svid: Option<&Arc<PortableSvid>>, entitled| {
        sender.send_modify(|present| {
            let mut next = Holdings::clone(present);
            next.identities = vec![identity(svid, entitled)];
            *present = Arc::new(next);
        });
    };
    let until = async |expected: &[&str]| {
        let reached = async {
            while readiness.pending() != expected {
                tokio::task::yield_now().await;
            }
        };
        let reached = tokio::time::timeout(Duration::from_secs(20), reached).await;
        assert!(reached.is_ok(), "{:?}", readiness.pending());
    };
    until(&["the workload's certificate"]).await;
    change(Some(&svid), Entitled::Admitted);
    until(&[]).await;
    change(None, Entitled::Nobody);
    until(&["the workload's certificate, which is revoked"]).await;
    drop(sender);
    holding.await.unwrap();
}
