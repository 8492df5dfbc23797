//! SDS: what names stand for, and when something is sent again.

use crate::harness::{Root, Served, WEB, identity, own_config, soon};
use prost::Message as _;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::{Code, Streaming};
use workload::proto::envoy::config::core::v3::DataSource;
use workload::proto::envoy::config::core::v3::data_source::Specifier;
use workload::proto::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use workload::proto::envoy::extensions::transport_sockets::tls::v3::{
    Secret, SpiffeCertValidatorConfig,
};
use workload::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use workload::proto::google::rpc;

fn request(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(ToString::to_string).collect(),
        ..DiscoveryRequest::default()
    }
}

fn acknowledge(names: &[&str], response: &DiscoveryResponse) -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: response.version_info.clone(),
        response_nonce: response.nonce.clone(),
        ..request(names)
    }
}

async fn fetch(served: &Served, names: &[&str]) -> Result<Vec<Secret>, tonic::Status> {
    let mut sds = served.sds().await;
    let response = soon(sds.fetch_secrets(request(names))).await?;
    Ok(secrets(&response.into_inner()))
}

fn secrets(response: &DiscoveryResponse) -> Vec<Secret> {
    let resources = response.resources.iter();
    resources
        .map(|any| Secret::decode(any.value.as_slice()).unwrap())
        .collect()
}

fn text(source: Option<&DataSource>) -> String {
    match source.and_then(|source| source.specifier.clone()) {
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes).unwrap(),
        other => panic!("expected text, found {}", other.is_some()),
    }
}

/// The certificate chain, or the roots.
fn pem(secret: &Secret) -> String {
    match secret.r#type.as_ref().unwrap() {
        Type::TlsCertificate(certificate) => text(certificate.certificate_chain.as_ref()),
        Type::ValidationContext(context) => text(context.trusted_ca.as_ref()),
    }
}

/// A stream and what is sent on it.
async fn stream(served: &Served) -> (mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>) {
    let (sender, mut receiver) = mpsc::channel(4);
    let requests = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
    let mut sds = served.sds().await;
    let answers = soon(sds.stream_secrets(requests)).await.unwrap();
    (sender, answers.into_inner())
}

#[tokio::test]
async fn names_stand_for_what_they_stand_for_with_spire() {
    let served = Served::start();
    let partner = Root::new("partner.test", 1);
    served.change(|holdings| holdings.federated = vec![Arc::clone(&partner.bundle)]);
    let names = [
        "default",
        WEB,
        "ROOTCA",
        "spiffe://domain.test",
        "spiffe://partner.test",
        "ALL",
    ];
    let found = fetch(&served, &names).await.unwrap();
    let found_names: Vec<_> = found.iter().map(|secret| secret.name.as_str()).collect();
    assert_eq!(found_names, names);
    let [default, web, own, own_by_id, foreign, all] = found.as_slice() else {
        panic!("expected six");
    };
    assert_eq!(pem(default), pem(web));
    assert!(pem(web).starts_with("-----BEGIN CERTIFICATE-----\n"));
    assert_eq!(
        (pem(own), pem(own_by_id)),
        (served.root.bundle.to_pem(), pem(own))
    );
    assert_eq!(pem(foreign), partner.bundle.to_pem());
    let Type::TlsCertificate(certificate) = default.r#type.as_ref().unwrap() else {
        panic!("expected a certificate");
    };
    let key = text(certificate.private_key.as_ref());
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert!(rcgen::KeyPair::from_pem(&key).is_ok());

    let Type::ValidationContext(context) = all.r#type.as_ref().unwrap() else {
        panic!("expected a validation context");
    };
    assert!(context.trusted_ca.is_none(), "never merged");
    let validator = context.custom_validator_config.as_ref().unwrap();
    assert_eq!(validator.name, "envoy.tls.cert_validator.spiffe");
    let config = validator.typed_config.as_ref().unwrap();
    let config = SpiffeCertValidatorConfig::decode(config.value.as_slice()).unwrap();
    let domains = config.trust_domains.iter();
    let domains: Vec<_> = domains
        .map(|domain| (domain.name.as_str(), text(domain.trust_bundle.as_ref())))
        .collect();
    let expected = [&served.root, &partner];
    let expected = expected.map(|root| (root.bundle.trust_domain().as_str(), root.bundle.to_pem()));
    assert_eq!(domains, expected);

    let everything = fetch(&served, &[]).await.unwrap();
    assert_eq!(everything.len(), 2);
}

#[tokio::test]
async fn other_names_are_not_found_and_other_types_refused() {
    let served = Served::start();
    for name in [
        "",
        "rootca",
        "spiffe://domain.test/jobs",
        "spiffe://other.test",
    ] {
        let refused = fetch(&served, &[name]).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{name:?}");
    }
    let mut sds = served.sds().await;
    let other = DiscoveryRequest {
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned(),
        ..request(&["default"])
    };
    let refused = soon(sds.fetch_secrets(other)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_rotation_is_pushed_and_a_refused_version_is_not_repeated() {
    let served = Served::start();
    let (requests, mut answers) = stream(&served).await;
    requests.send(request(&["default"])).await.unwrap();
    let one = soon(answers.message()).await.unwrap().unwrap();
    requests
        .send(acknowledge(&["default"], &one))
        .await
        .unwrap();

    let [second, third] = [(); 2].map(|()| served.root.svid(WEB));
    served.change(|holdings| holdings.identities[0].svid = Some(second));
    let two = soon(answers.message()).await.unwrap().unwrap();
    assert_ne!(pem(&secrets(&one)[0]), pem(&secrets(&two)[0]));
    assert_ne!(
        (&one.version_info, &one.nonce),
        (&two.version_info, &two.nonce)
    );
    let mut refusal = acknowledge(&["default"], &two);
    refusal.version_info = one.version_info;
    refusal.error_detail = Some(rpc::Status {
        message: "no such curve".to_owned(),
        ..rpc::Status::default()
    });
    requests.send(refusal).await.unwrap();

    // A bundle that this stream has not asked for: nothing. Then the third certificate, and not the second again.
    let other = Root::new("domain.test", 2);
    served.change(|holdings| holdings.own = other.bundle);
    let pem_of_third = identity::pem::encode(third.chain());
    served.change(|holdings| holdings.identities[0].svid = Some(third));
    let three = soon(answers.message()).await.unwrap().unwrap();
    assert_eq!(pem(&secrets(&three)[0]), pem_of_third);
}

#[tokio::test]
async fn a_stream_waits_for_the_first_certificate() {
    let root = Root::new("domain.test", 1);
    let served = Served::with(root, vec![identity(WEB, None)], own_config);
    let (requests, mut answers) = stream(&served).await;
    requests.send(request(&["default"])).await.unwrap();
    let svid = served.root.svid(WEB);
    served.change(|holdings| holdings.identities[0].svid = Some(svid));
    let one = soon(answers.message()).await.unwrap().unwrap();
    assert_eq!(secrets(&one)[0].name, "default");
    // Whoever has nothing is told so.
    served.change(|holdings| holdings.identities.clear());
    let refused = soon(answers.message()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

async fn delta(
    served: &Served,
) -> (
    mpsc::Sender<DeltaDiscoveryRequest>,
    Streaming<DeltaDiscoveryResponse>,
) {
    let (sender, mut receiver) = mpsc::channel(4);
    let requests = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
    let mut sds = served.sds().await;
    let answers = soon(sds.delta_secrets(requests)).await.unwrap();
    (sender, answers.into_inner())
}

fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    let resources = response.resources.iter();
    resources.map(|resource| resource.name.as_str()).collect()
}

#[tokio::test]
async fn delta_sends_what_is_new_and_names_what_there_is_not() {
    let served = Served::start();
    let (requests, mut answers) = delta(&served).await;
    let asked = subscribe(&["default", "ROOTCA", "nonsense"]);
    requests.send(asked).await.unwrap();
    let one = soon(answers.message()).await.unwrap().unwrap();
    assert_eq!(names(&one), ["ROOTCA", "default"]);
    assert_eq!(one.removed_resources, ["nonsense"]);

    let next = served.root.svid(WEB);
    served.change(|holdings| holdings.identities[0].svid = Some(next));
    let two = soon(answers.message()).await.unwrap().unwrap();
    assert_eq!(
        (names(&two), two.removed_resources.len()),
        (vec!["default"], 0)
    );

    // Who comes again with the version it has is told of other versions alone.
    let (requests, mut answers) = delta(&served).await;
    let mut again = subscribe(&["default", "ROOTCA"]);
    again.initial_resource_versions = one
        .resources
        .iter()
        .map(|resource| (resource.name.clone(), resource.version.clone()))
        .collect();
    requests.send(again).await.unwrap();
    let three = soon(answers.message()).await.unwrap().unwrap();
    assert_eq!(names(&three), ["default"]);
    assert_eq!(three.resources[0].version, two.resources[0].version);
}

#[tokio::test]
async fn what_a_client_still_has_is_not_taken_from_it_before_the_first_certificate() {
    let root = Root::new("domain.test", 1);
    let served = Served::with(root, vec![identity(WEB, None)], own_config);
    let (requests, mut answers) = delta(&served).await;
    let mut again = subscribe(&["default", "ROOTCA"]);
    again.initial_resource_versions = [("default".to_owned(), "earlier".to_owned())].into();
    requests.send(again).await.unwrap();
    let one = soon(answers.message()).await.unwrap().unwrap();
    assert_eq!(names(&one), ["ROOTCA"]);
    assert!(one.removed_resources.is_empty());
    let svid = served.root.svid(WEB);
    served.change(|holdings| holdings.identities[0].svid = Some(svid));
    let two = soon(answers.message()).await.unwrap().unwrap();
    assert_eq!(names(&two), ["default"]);
}

#[tokio::test]
async fn a_name_that_is_asked_for_again_counts_once() {
    let served = Served::start();
    let (requests, mut answers) = delta(&served).await;
    let many: Vec<_> = (0..63).map(|n| n.to_string()).collect();
    let mut many: Vec<_> = many.iter().map(String::as_str).collect();
    many.push("default");
    for _ in 0..2 {
        requests.send(subscribe(&many)).await.unwrap();
        let answer = soon(answers.message()).await.unwrap().unwrap();
        assert_eq!(names(&answer), ["default"]);
    }
    requests.send(subscribe(&["one more"])).await.unwrap();
    let refused = soon(answers.message()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}
