use super::*;
use crate::authority::{Attested, Authority, init};
use crate::config::{InitOptions, KeyProtection, OpenOptions};
use crate::entries::{MAX_RECOVERY_GRACE, Written};
use crate::lineage::LineageName;
use crate::metrics::Metrics;
use crate::revoke::{Reason as Why, Target};
use crate::store::Author;
use identity::{SpiffeId, TrustDomain};
use rcgen::{KeyPair, PublicKeyData};
use std::net::Ipv4Addr;
use std::sync::Arc;
use tempfile::TempDir;
use tonic::Code;

const CART: &str = "spiffe://demo.test/ns/shop/sa/cart";
const GRACE: Duration = Duration::from_secs(20 * 60);
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const MINUTE: Duration = Duration::from_secs(60);

fn entry(recovery_grace: Option<Duration>) -> Entry {
    let selectors = ["k8s:cluster:prod", "k8s:ns:shop", "k8s:sa:cart"];
    Entry::try_from(Written {
        id: CART.to_owned(),
        selectors: selectors.map(str::to_owned).to_vec(),
        recovery_grace_seconds: recovery_grace.map(|grace| grace.as_secs()),
        ..Written::default()
    })
    .unwrap()
}

fn vouched_for(entry: Option<String>) -> Attested {
    Attested {
        attestor: "kubernetes/prod".to_owned(),
        subject: "pod cart-0".to_owned(),
        holder: Some("cart-0".to_owned()),
        entry,
    }
}

/// A CA with an entry for the cart, and the certificate that the cart got by it.
struct Scene {
    api: Api,
    key: KeyPair,
    chain: Vec<Vec<u8>>,
    serial: String,
    not_after: SystemTime,
    _directory: TempDir,
}

impl Scene {
    async fn of(recovery_grace: Option<Duration>) -> Self {
        Self::attested_by(recovery_grace, Some(entry(None).name())).await
    }

    async fn attested_by(recovery_grace: Option<Duration>, name: Option<String>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca");
        let domain = TrustDomain::parse("demo.test").unwrap();
        init(
            &path,
            &InitOptions::new(domain, KeyProtection::InsecurePlaintext),
        )
        .unwrap();
        let authority = Authority::open(&path, &OpenOptions::default()).unwrap();
        let limits = crate::server::Options::default().limits();
        let api = Api::new(Arc::new(authority), Arc::new(Metrics::default()), limits);
        let store = api.authority.store();
        let created =
            store.create_entry(entry(recovery_grace), Author::Operator, SystemTime::now());
        created.await.unwrap().unwrap();
        let key = KeyPair::generate().unwrap();
        let issued = api.authority.issue(IssueOrder {
            id: SpiffeId::parse(CART).unwrap(),
            dns_names: Default::default(),
            public_key: PublicKey::from_spki(&key.subject_public_key_info()).unwrap(),
            ttl: None,
            until: None,
            requester: Requester::Attested(vouched_for(name)),
        });
        let issued = issued.await.unwrap();
        Self {
            chain: issued.chain.iter().map(|der| der.to_vec()).collect(),
            serial: issued.serial,
            not_after: issued.not_after,
            api,
            key,
            _directory: directory,
        }
    }

    /// From now on the scene is about this certificate and its key.
    fn holds(&mut self, issued: Issued, key: KeyPair) {
        self.chain = issued.chain.iter().map(|der| der.to_vec()).collect();
        self.serial = issued.serial;
        self.not_after = issued.not_after;
        self.key = key;
    }

    async fn renew(&mut self, attested: Option<Attested>) {
        let key = KeyPair::generate().unwrap();
        let renewed = self.api.authority.issue(IssueOrder {
            id: SpiffeId::parse(CART).unwrap(),
            dns_names: Default::default(),
            public_key: PublicKey::from_spki(&key.subject_public_key_info()).unwrap(),
            ttl: None,
            until: None,
            requester: Requester::Svid {
                serial: self.serial.clone(),
                attested,
            },
        });
        let renewed = renewed.await.unwrap();
        self.holds(renewed, key);
    }

    /// What the holder of the certificate asks at `now`, for `leaf`.
    fn request(&self, leaf: &KeyPair, now: SystemTime) -> RecoverRequest {
        let csr = rcgen::CertificateParams::default()
            .serialize_request(leaf)
            .unwrap();
        let asked_at = now.duration_since(UNIX_EPOCH).unwrap().as_millis();
        self.signed(RecoverRequest {
            chain: self.chain.clone(),
            csr: csr.der().to_vec(),
            asked_at_unix_ms: i64::try_from(asked_at).unwrap(),
            ..RecoverRequest::default()
        })
    }

    fn signed(&self, request: RecoverRequest) -> RecoverRequest {
        let statement = attest::recovery_statement(
            &SpiffeId::parse(CART).unwrap(),
            &request.chain[0],
            &request.csr,
            request.asked_at_unix_ms,
        );
        let proof = rcgen::SigningKey::sign(&self.key, &statement).unwrap();
        RecoverRequest { proof, ..request }
    }

    /// Asks for a new key so long after the end.
    async fn recover(&self, after: Duration) -> Result<Issued, Status> {
        let (leaf, now) = (KeyPair::generate().unwrap(), self.not_after + after);
        let request = self.request(&leaf, now);
        self.api.recovered(&request, HERE, now).await
    }

    async fn is_not_recovered(&self) {
        let status = self.recover(MINUTE).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        assert!(status.message().contains("after its end"), "{status:?}");
    }

    async fn refused(&self, request: &RecoverRequest, code: Code, word: &str) {
        let now = self.not_after + MINUTE;
        let status = self.api.recovered(request, HERE, now).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(word), "{status:?}");
    }

    fn records(&self) -> Vec<crate::ledger::Record> {
        let directory = self._directory.path().join("ca");
        crate::ledger::records(&directory, 1, 100).unwrap()
    }
}

#[tokio::test]
async fn an_expired_certificate_is_renewed_within_the_grace_of_its_entry_and_the_record_says_so() {
    let scene = Scene::of(Some(GRACE)).await;
    let issued = scene.recover(GRACE).await.unwrap();
    assert_eq!(issued.id.as_str(), CART);
    assert!(issued.not_after > SystemTime::now());
    let records = scene.records();
    let requester = records.last().unwrap().fields["requester"].clone();
    assert_eq!(
        requester,
        format!("recovery of expired svid {}", scene.serial)
    );
}

#[tokio::test]
async fn nothing_is_recovered_unless_the_entry_behind_the_certificate_says_so() {
    let off = Scene::of(None).await;
    let status = off.recover(MINUTE).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert_eq!(off.records().last().unwrap().kind, "refused");
    // An entry of the same identity does not count, only that which gave the certificate.
    for name in [None, Some("0123456789abcdef".to_owned())] {
        let other = Scene::attested_by(Some(GRACE), name).await;
        let status = other.recover(MINUTE).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    }
}

#[tokio::test]
async fn an_entry_that_is_gone_recovers_nothing() {
    let scene = Scene::of(Some(GRACE)).await;
    let store = scene.api.authority.store();
    let deleted = store.delete_entry(entry(None).name(), Author::Operator, SystemTime::now());
    assert!(deleted.await.unwrap());
    let status = scene.recover(MINUTE).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
}

#[tokio::test]
async fn the_grace_ends() {
    let scene = Scene::of(Some(GRACE)).await;
    let status = scene
        .recover(GRACE + Duration::from_secs(1))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert!(status.message().contains("within 1200 s"), "{status:?}");
    let longest = Written {
        recovery_grace_seconds: Some(MAX_RECOVERY_GRACE.as_secs() + 1),
        ..entry(None).to_written()
    };
    assert!(Entry::try_from(longest).is_err());
}

#[tokio::test]
async fn a_certificate_that_is_still_valid_is_renewed_in_the_other_way() {
    let scene = Scene::of(Some(GRACE)).await;
    let now = scene.not_after - MINUTE;
    let request = scene.request(&KeyPair::generate().unwrap(), now);
    let status = scene.api.recovered(&request, HERE, now).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
}

#[tokio::test]
async fn only_the_expired_certificates_own_key_proves_it_and_for_one_request_at_one_time() {
    let scene = Scene::of(Some(GRACE)).await;
    let now = scene.not_after + MINUTE;
    let good = scene.request(&KeyPair::generate().unwrap(), now);
    let thief = Scene::of(Some(GRACE)).await;
    let change = |change: fn(&mut RecoverRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    let other_csr = RecoverRequest {
        csr: scene.request(&KeyPair::generate().unwrap(), now).csr,
        ..good.clone()
    };
    let proof = "expected proof to be";
    for request in [
        other_csr,
        change(|request| request.asked_at_unix_ms += 1),
        change(|request| request.proof.clear()),
        change(|request| request.proof[8] ^= 1),
        // Signed by a key that is not the certificate's.
        thief.signed(good.clone()),
    ] {
        scene.refused(&request, Code::InvalidArgument, proof).await;
    }
    for minutes in [-6_i64, 6] {
        let mut request = good.clone();
        request.asked_at_unix_ms += minutes * 60_000;
        let request = scene.signed(request);
        scene
            .refused(&request, Code::FailedPrecondition, "300 s")
            .await;
    }
    let another_ca = RecoverRequest {
        chain: thief.chain.clone(),
        ..good.clone()
    };
    scene
        .refused(&another_ca, Code::Unauthenticated, "chain: ")
        .await;
    let none = change(|request| request.chain.clear());
    scene.refused(&none, Code::Unauthenticated, "chain: ").await;
    let garbage = change(|request| request.chain[0].truncate(99));
    scene
        .refused(&garbage, Code::Unauthenticated, "chain: ")
        .await;
    assert!(scene.api.recovered(&good, HERE, now).await.is_ok());
}

#[tokio::test]
async fn a_copied_call_brings_nobody_another_key_and_a_second_key_freezes_the_lineage() {
    let scene = Scene::of(Some(GRACE)).await;
    let (leaf, now) = (KeyPair::generate().unwrap(), scene.not_after + MINUTE);
    let request = scene.request(&leaf, now);
    let first = scene.api.recovered(&request, HERE, now).await.unwrap();
    // As with a renewal whose reply was lost: what is certified is the same key.
    let again = scene.api.recovered(&request, HERE, now).await.unwrap();
    for issued in [&first, &again] {
        let key = PublicKey::from_certificate(&issued.chain[0]).unwrap();
        assert_eq!(key.to_spki(), leaf.subject_public_key_info());
    }
    let status = scene.recover(MINUTE).await.unwrap_err();
    assert!(
        status.message().contains("with another key before"),
        "{status:?}"
    );
    // Frozen for everybody, the first one too.
    let status = scene.api.recovered(&request, HERE, now).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert!(status.message().contains("frozen"), "{status:?}");
}

#[tokio::test]
async fn of_two_recoveries_at_once_with_two_keys_one_is_granted() {
    let scene = Scene::of(Some(GRACE)).await;
    let (one, other) = tokio::join!(scene.recover(MINUTE), scene.recover(MINUTE));
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    let frozen = scene.records();
    assert!(frozen.iter().any(|record| record.kind == "lineage_frozen"));
}

#[tokio::test]
async fn a_certificate_that_was_renewed_in_time_is_not_recovered_for_another_key() {
    let mut scene = Scene::of(Some(GRACE)).await;
    let now = scene.not_after + MINUTE;
    let request = scene.request(&KeyPair::generate().unwrap(), now);
    scene.renew(None).await;
    let status = scene.api.recovered(&request, HERE, now).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
}

#[tokio::test]
async fn who_has_proven_anew_who_it_is_has_no_use_for_the_expired_certificate() {
    let scene = Scene::of(Some(GRACE)).await;
    let anew = KeyPair::generate().unwrap();
    let issued = scene.api.authority.issue(IssueOrder {
        id: SpiffeId::parse(CART).unwrap(),
        dns_names: Default::default(),
        public_key: PublicKey::from_spki(&anew.subject_public_key_info()).unwrap(),
        ttl: None,
        until: None,
        requester: Requester::Attested(vouched_for(Some(entry(None).name()))),
    });
    issued.await.unwrap();
    let status = scene.recover(MINUTE).await.unwrap_err();
    assert!(status.message().contains("issued anew"), "{status:?}");
}

#[tokio::test]
async fn what_is_revoked_is_not_recovered_by_whatever_name() {
    let scene = Scene::of(Some(GRACE)).await;
    let lineage = LineageName::of_holder("kubernetes/prod", "cart-0");
    for target in [
        Target::Serial(scene.serial.clone()),
        Target::Lineage(lineage),
        Target::Identity(SpiffeId::parse(CART).unwrap()),
    ] {
        let scene = Scene::of(Some(GRACE)).await;
        let target = match target {
            Target::Serial(_) => Target::Serial(scene.serial.clone()),
            target => target,
        };
        let store = scene.api.authority.store();
        let revoked = store.revoke(target.clone(), Why::KeyCompromise, SystemTime::now());
        revoked.await.unwrap().unwrap();
        let status = scene.recover(MINUTE).await.unwrap_err();
        assert_eq!(
            status.code(),
            Code::PermissionDenied,
            "{target:?} {status:?}"
        );
        assert!(
            status.message().contains("revoked"),
            "{target:?} {status:?}"
        );
    }
}

#[tokio::test]
async fn what_was_recovered_is_recovered_again_only_after_somebody_has_vouched_for_its_holder() {
    let mut scene = Scene::of(Some(GRACE)).await;
    let (leaf, now) = (KeyPair::generate().unwrap(), scene.not_after + MINUTE);
    let request = scene.request(&leaf, now);
    let issued = scene.api.recovered(&request, HERE, now).await.unwrap();
    scene.holds(issued, leaf);
    scene.is_not_recovered().await;
    // A renewal by the certificate alone vouches for nobody either.
    scene.renew(None).await;
    scene.is_not_recovered().await;
    scene
        .renew(Some(vouched_for(Some(entry(None).name()))))
        .await;
    assert!(scene.recover(MINUTE).await.is_ok());
}
