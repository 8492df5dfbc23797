//! Pods of a real cluster prove who they are: kube-apiserver makes the tokens and is asked about them.

mod cluster;

use crate::harness::{PATIENCE, Process, free_address, path, tipstaff_ok, wait_for};
use ca::client::{self, ClientConfig, ClientState, Keys, Proof};
use cluster::{Cluster, ISSUER};
use identity::{SpiffeId, TrustBundle};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const AUDIENCE: &str = "tipstaff.test.example";
const CART: &str = "spiffe://test.example/ns/shop/sa/cart";

/// A CA that believes one cluster, and the folder of what clients need.
struct Believer {
    folder: PathBuf,
    endpoint: String,
    _process: Process,
}

impl Believer {
    /// `attestor` is the YAML that says where the cluster's keys are.
    fn start(folder: &Path, attestor: &str) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        let (dir, listen) = (folder.join("ca"), free_address());
        let init = ["ca", "init", "--dir", path(&dir)];
        tipstaff_ok(&[&init[..], &["--trust-domain", "test.example"]].concat());
        let config = folder.join("ca.yaml");
        let text = format!(
            "dir: {}\nlisten: {listen}\nattest:\n  kubernetes:\n    - {{name: real, issuer: '{ISSUER}', audience: {AUDIENCE}, {attestor}}}\n",
            path(&dir)
        );
        std::fs::write(&config, text).expect("a file");
        let arguments = ["ca", "serve", "--config", path(&config)];
        let process = Process::tipstaff(&arguments, folder.join("ca.log"));
        wait_for("the CA to listen", || TcpStream::connect(listen).ok());
        Self {
            folder: folder.to_owned(),
            endpoint: format!("https://{listen}"),
            _process: process,
        }
    }

    /// What a sidecar gets for `token`: nothing, or why it got nothing.
    fn enrol(&self, token: &str) -> Result<(), String> {
        let file = self.folder.join("token");
        std::fs::write(&file, token).expect("a file");
        let id = SpiffeId::parse(CART).expect("an ID");
        let bundle = std::fs::read(self.folder.join("ca/ca-bundle.pem")).expect("a bundle");
        let config = ClientConfig {
            endpoint: self.endpoint.clone(),
            bundle: TrustBundle::from_pem(id.trust_domain(), &bundle, 0).expect("a bundle"),
            spiffe_id: id,
            proof: Proof::ServiceAccountToken(file),
            ttl: None,
            keys: Keys::Kept,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut handles = client::start(config).expect("a client");
            let outcome = handles
                .state
                .wait_for(|state| *state != ClientState::Enrolling);
            let outcome = tokio::time::timeout(PATIENCE, outcome).await;
            match &*outcome.expect("an answer").expect("a client") {
                ClientState::Valid { .. } => Ok(()),
                ClientState::Retrying { error, .. } | ClientState::Expired { error, .. } => {
                    Err(error.clone())
                }
                ClientState::Enrolling => unreachable!("it was waited for"),
            }
        })
    }

    #[track_caller]
    fn refuses(&self, token: &str, words: &str) {
        let said = self.enrol(token).expect_err("nothing is issued");
        assert!(said.contains(words), "{words:?} in {said:?}");
    }
}

#[test]
fn a_real_clusters_token_is_told_from_altered_ones_and_those_for_others() {
    let folder = TempDir::new().expect("a folder");
    let cluster = Cluster::start(folder.path());
    cluster.account("shop", "cart");
    let uid = cluster.pod("shop", "cart", "cart-0");
    let jwks = folder.path().join("jwks.json");
    std::fs::write(&jwks, cluster.get("/openid/v1/jwks")).expect("a file");
    let attestor = format!("jwksFile: {}", path(&jwks));
    let ca = Believer::start(&folder.path().join("offline"), &attestor);

    let cart = ("shop", "cart");
    let pod = Some(("cart-0", uid.as_str()));
    let good = cluster.token(cart, AUDIENCE, pod);
    ca.enrol(&good).expect("the pod is what it says");
    ca.refuses(&cluster.token(cart, ISSUER, pod), "for the audience");
    ca.refuses(&cluster.token(cart, "vault", pod), "for the audience");
    ca.refuses(&cluster.token(cart, AUDIENCE, None), "bound to a pod");

    let (signed, signature) = good.rsplit_once('.').expect("a token");
    // In its middle: the last characters may have bits that count for nothing.
    let (start, end) = signature.split_at(signature.len() / 2);
    let other = if end.starts_with('A') { 'B' } else { 'A' };
    ca.refuses(
        &format!("{signed}.{start}{other}{}", &end[1..]),
        "signature",
    );
    let (header, _) = signed.split_once('.').expect("a token");
    let another = cluster.token(cart, "vault", pod);
    let claims = another.split('.').nth(1).expect("a token");
    ca.refuses(&format!("{header}.{claims}.{signature}"), "signature");

    cluster.account("bank", "cart");
    let uid = cluster.pod("bank", "cart", "cart-0");
    let elsewhere = cluster.token(("bank", "cart"), AUDIENCE, Some(("cart-0", &uid)));
    ca.refuses(&elsewhere, "expected the ID of what was attested");
}

#[test]
fn a_deleted_pods_token_is_refused_once_the_cluster_is_asked_and_not_before() {
    let folder = TempDir::new().expect("a folder");
    let cluster = Cluster::start(folder.path());
    cluster.account("tipstaff", "ca");
    for role in [
        "system:auth-delegator",
        "system:service-account-issuer-discovery",
    ] {
        cluster.grant("tipstaff", "ca", role);
    }
    let own = folder.path().join("own.token");
    std::fs::write(&own, cluster.token(("tipstaff", "ca"), ISSUER, None)).expect("a file");
    let server = |at: &str| {
        format!(
            "{{url: '{}', caFile: {}, tokenFile: {}}}",
            cluster.url(at),
            path(&cluster.ca_file()),
            path(&own)
        )
    };
    let keys = format!("jwks: {}", server("/openid/v1/jwks"));
    let offline = Believer::start(&folder.path().join("offline"), &keys);
    let review = format!("{keys}, tokenReview: {}", server(""));
    let asking = Believer::start(&folder.path().join("asking"), &review);

    cluster.account("shop", "cart");
    let uid = cluster.pod("shop", "cart", "cart-0");
    let token = cluster.token(("shop", "cart"), AUDIENCE, Some(("cart-0", &uid)));
    offline.enrol(&token).expect("the pod is there");
    asking.enrol(&token).expect("the pod is there");
    cluster.delete("/api/v1/namespaces/shop/pods/cart-0?gracePeriodSeconds=0");
    let said = wait_for("the deleted pod's token to be refused", || {
        asking.enrol(&token).err()
    });
    assert!(
        said.contains("one of a pod or account that is gone"),
        "{said}"
    );
    offline
        .enrol(&token)
        .expect("its signature says nothing of the pod");
}
