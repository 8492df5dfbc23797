//! The JWT profile.

use crate::harness::{JOBS, Root, Served, WEB, asked, identity, own_config, soon};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use identity::SpiffeId;
use identity::jwt::{JwtKey, JwtKeys, encode};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tonic::Code;
use workload::proto::{
    JwtBundlesRequest, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509svidRequest,
};
use workload::{Holdings, Identity, TokenAsk};

/// The part of a CA that signs tokens.
struct Signer {
    pair: EcdsaKeyPair,
}

impl Signer {
    fn new() -> Arc<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Arc::new(Self { pair })
    }

    fn keys(&self) -> JwtKeys {
        let mut keys = JwtKeys::default();
        keys.insert(JwtKey::p256("k", self.pair.public_key().as_ref()).unwrap());
        keys
    }

    fn token(&self, id: &str, audience: &[String]) -> String {
        let id = SpiffeId::parse(id).unwrap();
        let now = SystemTime::now();
        let life = (now, now + Duration::from_secs(60));
        let sign = |text: &[u8]| self.pair.sign(&SystemRandom::new(), text);
        let sign = |text: &[u8]| sign(text).map(|signature| signature.as_ref().to_vec());
        encode("k", (&id, audience), life, "one", sign).unwrap()
    }

    /// An identity whose tokens this signs.
    fn identity(self: &Arc<Self>, id: &'static str) -> Identity {
        let (sender, mut asks) = mpsc::channel::<TokenAsk>(4);
        let signer = Arc::clone(self);
        tokio::spawn(async move {
            while let Some((audience, answer)) = asks.recv().await {
                let _ = answer.send(Ok(signer.token(id, &audience)));
            }
        });
        Identity {
            tokens: sender,
            hint: id.rsplit('/').next().unwrap().to_owned(),
            ..identity(id, None)
        }
    }
}

fn served() -> (Served, Arc<Signer>) {
    let signer = Signer::new();
    let identities = vec![signer.identity(WEB), signer.identity(JOBS)];
    let served = Served::with(Root::new("domain.test", 1), identities, own_config);
    let keys = signer.keys();
    served.change(|holdings| vouch(holdings, keys));
    (served, signer)
}

fn vouch(holdings: &mut Holdings, keys: JwtKeys) {
    holdings.own = Arc::new((*holdings.own).clone().with_jwt_keys(keys));
}

async fn fetch(served: &Served, audience: &[&str], id: &str) -> Result<JwtsvidResponse, Code> {
    let mut api = served.api().await;
    let call = asked(JwtsvidRequest {
        audience: audience.iter().map(ToString::to_string).collect(),
        spiffe_id: id.to_owned(),
    });
    let answered = soon(api.fetch_jwtsvid(call)).await;
    answered
        .map(tonic::Response::into_inner)
        .map_err(|status| status.code())
}

async fn validate(
    served: &Served,
    audience: &str,
    token: &str,
) -> Result<ValidateJwtsvidResponse, Code> {
    let mut api = served.api().await;
    let call = asked(ValidateJwtsvidRequest {
        audience: audience.to_owned(),
        svid: token.to_owned(),
    });
    let answered = soon(api.validate_jwtsvid(call)).await;
    answered
        .map(tonic::Response::into_inner)
        .map_err(|status| status.code())
}

#[tokio::test]
async fn a_token_is_fetched_and_validates_for_its_audience_alone() {
    let (served, _signer) = served();
    let both = fetch(&served, &["api", "other"], "").await.unwrap();
    let hints: Vec<_> = both.svids.iter().map(|svid| svid.hint.as_str()).collect();
    assert_eq!(hints, ["web", "jobs"]);
    let one = fetch(&served, &["api"], JOBS).await.unwrap();
    let [svid] = one.svids.as_slice() else {
        panic!("expected one");
    };
    assert_eq!(svid.spiffe_id, JOBS);
    assert!(!format!("{svid:?}").contains(&svid.svid), "not printed");

    let good = validate(&served, "api", &svid.svid).await.unwrap();
    assert_eq!(good.spiffe_id, JOBS);
    let claims = good.claims.unwrap();
    assert!(
        ["sub", "aud", "exp", "iat"]
            .iter()
            .all(|name| claims.fields.contains_key(*name))
    );
    let refused = Err(Code::InvalidArgument);
    assert_eq!(validate(&served, "other", &svid.svid).await, refused);
    assert_eq!(validate(&served, "", &svid.svid).await, refused);
    assert_eq!(
        validate(&served, "api", &format!("{}x", svid.svid)).await,
        refused
    );
}

#[tokio::test]
async fn a_token_without_an_audience_or_of_another_identity_is_refused() {
    let (served, _signer) = served();
    assert_eq!(fetch(&served, &[], "").await, Err(Code::InvalidArgument));
    assert_eq!(fetch(&served, &[""], "").await, Err(Code::InvalidArgument));
    let other = "spiffe://domain.test/other";
    assert_eq!(
        fetch(&served, &["api"], other).await,
        Err(Code::PermissionDenied)
    );
    served.change(|holdings| holdings.identities.clear());
    assert_eq!(
        fetch(&served, &["api"], "").await,
        Err(Code::PermissionDenied)
    );
}

#[tokio::test]
async fn the_keys_of_one_trust_domain_do_not_vouch_for_another() {
    let (served, signer) = served();
    let foreign = Signer::new();
    let partner = Root::new("partner.test", 1);
    let bundle = (*partner.bundle).clone().with_jwt_keys(foreign.keys());
    served.change(|holdings| holdings.federated = vec![Arc::new(bundle)]);
    let audience = ["api".to_owned()];
    let [good, stolen, unknown] = [
        foreign.token("spiffe://partner.test/x", &audience),
        foreign.token(WEB, &audience),
        signer.token("spiffe://stranger.test/x", &audience),
    ];
    assert!(validate(&served, "api", &good).await.is_ok());
    assert_eq!(
        validate(&served, "api", &stolen).await,
        Err(Code::InvalidArgument)
    );
    assert_eq!(
        validate(&served, "api", &unknown).await,
        Err(Code::InvalidArgument)
    );
}

#[tokio::test]
async fn new_keys_are_sent_before_a_stream_is_asked_again() {
    let (served, signer) = served();
    let mut api = served.api().await;
    let call = asked(JwtBundlesRequest::default());
    let mut answers = soon(api.fetch_jwt_bundles(call))
        .await
        .unwrap()
        .into_inner();
    let first = soon(answers.message()).await.unwrap().unwrap();
    let read = |json: &[u8]| JwtKeys::from_jwks(json).unwrap();
    assert_eq!(read(&first.bundles["spiffe://domain.test"]), signer.keys());
    served.change(|holdings| vouch(holdings, JwtKeys::default()));
    let next = soon(answers.message()).await.unwrap().unwrap();
    assert!(read(&next.bundles["spiffe://domain.test"]).is_empty());
}

#[tokio::test]
async fn a_new_key_for_tokens_sends_no_key_of_a_certificate_again() {
    let (served, _signer) = served();
    let [first, next] = [(); 2].map(|()| served.root.svid(WEB));
    served.change(|holdings| holdings.identities[0].svid = Some(first));
    let mut api = served.api().await;
    let call = asked(X509svidRequest::default());
    let certificates = soon(api.fetch_x509svid(call)).await.unwrap();
    let mut certificates = certificates.into_inner();
    soon(certificates.message()).await.unwrap().unwrap();
    let call = asked(JwtBundlesRequest::default());
    let mut keys = soon(api.fetch_jwt_bundles(call))
        .await
        .unwrap()
        .into_inner();
    soon(keys.message()).await.unwrap().unwrap();

    served.change(|holdings| vouch(holdings, JwtKeys::default()));
    soon(keys.message()).await.unwrap().unwrap();
    served.change(|holdings| holdings.identities[0].svid = Some(Arc::clone(&next)));
    // Had the change of keys been told, it would come first, with the certificate from before.
    let answer = soon(certificates.message()).await.unwrap().unwrap();
    assert_eq!(answer.svids[0].x509_svid, next.chain()[0].as_ref());
}
