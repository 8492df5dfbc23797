//! What an entry gives besides the identity: host names, a hint, the bundles of other trust domains.

use crate::attest::{clusters, patient};
use crate::harness::{Ca, LeafKey, within};
use crate::issuer::{Published, Signer, attestation, claims, request};
use ca::attest::Renewals;
use ca::attest::kubernetes::Identities;
use ca::client::{self, Keys, Proof};
use ca::entries::{Entry, Written};
use ca::proto::{IssueResponse, Registration, RenewRequest, RenewResponse};
use ca::store::Author;
use identity::{Svid, TrustDomain};
use std::time::SystemTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const FRONT: &str = "spiffe://demo.test/web/front";

fn entry(dns_names: &[&str]) -> Entry {
    let text = |text: &&str| (*text).to_owned();
    Entry::try_from(Written {
        id: FRONT.to_owned(),
        selectors: ["k8s:cluster:prod", "k8s:ns:shop"]
            .iter()
            .map(text)
            .collect(),
        hint: Some("outside".to_owned()),
        dns_names: dns_names.iter().map(text).collect(),
        federates_with: vec!["partner.test".to_owned()],
        ..Written::default()
    })
    .unwrap()
}

async fn ca(published: &Published, renewals: Renewals, listed: Vec<Entry>) -> Ca {
    let mut cluster = published.cluster("prod", Identities::Entries);
    cluster.renewals = renewals;
    let attestors = clusters(vec![cluster]).await;
    Ca::start_as(patient(), |server| {
        server.believing(attestors).with_entries(listed)
    })
    .await
}

/// All names of a certificate as text.
fn names(der: &[u8]) -> Vec<String> {
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let names = names.value.general_names.iter().map(|name| match name {
        GeneralName::DNSName(name) => format!("DNS:{name}"),
        GeneralName::URI(uri) => (*uri).to_owned(),
        other => panic!("{other:?}"),
    });
    names.collect()
}

async fn issue(ca: &Ca, leaf: &LeafKey, token: &str) -> IssueResponse {
    let reply = ca
        .connect(None)
        .await
        .issue(request(FRONT, leaf, token))
        .await;
    reply.unwrap().into_inner()
}

async fn renew(ca: &Ca, svid: &Svid, renewal: RenewRequest) -> RenewResponse {
    let reply = ca.connect(Some(svid)).await.renew(renewal).await;
    reply.unwrap().into_inner()
}

#[tokio::test]
async fn host_names_are_in_the_certificate_and_on_record_and_the_rest_is_told() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let listed = vec![entry(&["www.shop.example", "front.shop"])];
    let ca = ca(&published, Renewals::Attest, listed).await;
    let leaf = LeafKey::new();
    let reply = issue(&ca, &leaf, &signer.token(&claims())).await;
    let expected = [FRONT, "DNS:front.shop", "DNS:www.shop.example"];
    assert_eq!(
        names(&reply.certificate.clone().unwrap().chain[0]),
        expected
    );
    let registration = Registration {
        hint: "outside".to_owned(),
        federates_with: Some(ca::proto::FederatesWith {
            trust_domains: vec!["partner.test".to_owned()],
        }),
    };
    assert_eq!(reply.registration, Some(registration.clone()));
    let records = ca::ledger::records(&ca.directory(), 1, 100).unwrap();
    let issued = records
        .iter()
        .rfind(|record| record.kind == "issued")
        .unwrap();
    assert_eq!(
        issued.fields["dns_names"],
        serde_json::json!(["front.shop", "www.shop.example"])
    );

    // The next has what the entry says then.
    let svid = leaf.svid(reply.certificate.unwrap().chain);
    let renewal = RenewRequest {
        csr: LeafKey::new().csr,
        attestation: attestation(&signer.token(&claims())),
        ..RenewRequest::default()
    };
    let reply = renew(&ca, &svid, renewal).await;
    assert_eq!(names(&reply.certificate.unwrap().chain[0]), expected);
    assert_eq!(reply.registration, Some(registration));
}

#[tokio::test]
async fn a_certificate_that_is_renewed_by_itself_keeps_names_while_an_entry_gives_them() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let ca = ca(&published, Renewals::Certificate, Vec::new()).await;
    let store = ca.authority.store();
    let create = |entry| store.create_entry(entry, Author::Operator, SystemTime::now());
    let delete =
        |entry: Entry| store.delete_entry(entry.name(), Author::Operator, SystemTime::now());
    create(entry(&["a.example", "b.example"]))
        .await
        .unwrap()
        .unwrap();
    let mut leaf = LeafKey::new();
    let reply = issue(&ca, &leaf, &signer.token(&claims())).await;
    let mut svid = leaf.svid(reply.certificate.unwrap().chain);
    for (given, expected) in [
        (
            &["a.example", "b.example"][..],
            &["a.example", "b.example"][..],
        ),
        // A name that comes anew needs evidence; one that is gone is gone.
        (&["b.example", "c.example"], &["b.example"]),
        (&[], &[]),
        (&["b.example"], &[]),
    ] {
        delete(entry(&[])).await.unwrap();
        create(entry(given)).await.unwrap().unwrap();
        leaf = LeafKey::new();
        let renewal = RenewRequest {
            csr: leaf.csr.clone(),
            ..RenewRequest::default()
        };
        let reply = renew(&ca, &svid, renewal).await;
        let chain = reply.certificate.unwrap().chain;
        let expected = expected.iter().map(|name| format!("DNS:{name}"));
        let expected: Vec<_> = [FRONT.to_owned()].into_iter().chain(expected).collect();
        assert_eq!(names(&chain[0]), expected, "{given:?}");
        assert_eq!(reply.registration, None, "what was said holds");
        svid = leaf.svid(chain);
    }
}

#[tokio::test]
async fn whom_no_entry_speaks_of_has_no_host_names_and_all_bundles() {
    let ca = Ca::start().await;
    let workload = crate::harness::Workload::new();
    let request = workload.request(FRONT, &ca.token(FRONT).await);
    let reply = ca
        .connect(None)
        .await
        .issue(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(names(&reply.certificate.unwrap().chain[0]), [FRONT]);
    assert_eq!(reply.registration, Some(Registration::default()));
}

#[tokio::test]
async fn a_client_hears_of_its_hint_and_whose_bundles_are_for_it() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let ca = ca(&published, Renewals::Attest, vec![entry(&[])]).await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, signer.token(&claims())).unwrap();
    let config = client::ClientConfig {
        proof: Proof::ServiceAccountToken(token),
        keys: Keys::HandedOut,
        ..ca.client_config(FRONT, None, folder.path())
    };
    let mut handles = client::start(config).unwrap();
    let portable = within(handles.portable.wait_for(Option::is_some)).await;
    drop(portable.unwrap());
    let registration = handles.registration.borrow().clone();
    assert_eq!(registration.hint, "outside");
    let partner = TrustDomain::parse("partner.test").unwrap();
    assert_eq!(registration.federates_with, Some([partner].into()));
}
