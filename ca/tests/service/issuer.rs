//! An issuer of tokens that can sign anything, and a cluster's API server that reviews them.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ca::attest::keyring::{IssuerOptions, KeySource};
use ca::attest::kubernetes::{self, Identities};
use ca::attest::{Attestors, Options, Renewals};
use ca::proto::attestation::Evidence;
use ca::proto::{Attestation, IssueRequest};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;

use crate::harness::LeafKey;

pub(crate) const ISSUER: &str = "https://kubernetes.default.svc";
pub(crate) const AUDIENCE: &str = "tipstaff.demo.test";

pub(crate) fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs()
}

/// A signing key with its `kid`.
pub(crate) struct Signer {
    kid: String,
    key: Key,
}

enum Key {
    P256(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl Signer {
    pub(crate) fn p256(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self {
            kid: kid.to_owned(),
            key: Key::P256(pair),
        }
    }

    pub(crate) fn rsa(kid: &str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        Self {
            kid: kid.to_owned(),
            key: Key::Rsa(Box::new(pair)),
        }
    }

    pub(crate) fn jwk(&self) -> Value {
        match &self.key {
            Key::P256(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig",
                    "x": encoded(&point[1..33]), "y": encoded(&point[33..])})
            }
            Key::Rsa(pair) => {
                let (_, public) = RSAPublicKey::from_der(pair.public_key().as_ref()).unwrap();
                let number = |bytes: &[u8]| {
                    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                    encoded(&bytes[zeros..])
                };
                json!({"kty": "RSA", "kid": self.kid, "use": "sig", "alg": "RS256",
                    "n": number(public.modulus),
                    "e": number(public.exponent)})
            }
        }
    }

    fn algorithm(&self) -> &'static str {
        match &self.key {
            Key::P256(_) => "ES256",
            Key::Rsa(_) => "RS256",
        }
    }

    pub(crate) fn header(&self) -> Value {
        json!({"alg": self.algorithm(), "kid": self.kid})
    }

    pub(crate) fn token(&self, claims: &Value) -> String {
        self.sign(&self.header().to_string(), &claims.to_string())
    }

    /// Signs whatever the parts are.
    pub(crate) fn sign(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", encoded(header), encoded(claims));
        let signature = self.signature(signed.as_bytes());
        format!("{signed}.{}", encoded(signature))
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::P256(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Key::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .unwrap();
                signature
            }
        }
    }
}

/// What the kubelet would bring for a pod of `shop`'s `cart`.
pub(crate) fn claims() -> Value {
    json!({
        "iss": ISSUER,
        "aud": [AUDIENCE],
        "sub": "system:serviceaccount:shop:cart",
        "iat": now() - 5,
        "nbf": now() - 5,
        "exp": now() + 600,
        "kubernetes.io": {
            "namespace": "shop",
            "serviceaccount": {"name": "cart", "uid": "5b4e3f52-0000-4000-8000-000000000001"},
            "pod": {"name": "cart-0", "uid": "81c7a2b0-0000-4000-8000-000000000002"},
        },
    })
}

/// `claims` with one of them changed.
pub(crate) fn with(pointer: &str, value: Value) -> Value {
    let mut claims = claims();
    *claims.pointer_mut(pointer).unwrap() = value;
    claims
}

pub(crate) fn without(claim: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(claim).unwrap();
    claims
}

/// A folder with the published keys of `signers`.
pub(crate) struct Published {
    dir: tempfile::TempDir,
}

impl Published {
    pub(crate) fn new(signers: &[&Signer]) -> Self {
        let published = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        published.replace(signers);
        published
    }

    pub(crate) fn replace(&self, signers: &[&Signer]) {
        let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
        std::fs::write(self.path(), json!({ "keys": keys }).to_string()).unwrap();
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("jwks.json")
    }

    pub(crate) fn cluster(&self, name: &str, identities: Identities) -> kubernetes::Options {
        kubernetes::Options {
            name: name.to_owned(),
            token: IssuerOptions {
                issuer: ISSUER.to_owned(),
                audience: AUDIENCE.to_owned(),
                keys: KeySource::File(self.path()),
            },
            identities,
            renewals: Renewals::Attest,
            review: None,
        }
    }

    /// The one cluster there is.
    pub(crate) async fn attestors(&self) -> Attestors {
        let kubernetes = vec![self.cluster("prod", Identities::ServiceAccount)];
        let options = Options {
            kubernetes,
            ..Options::default()
        };
        Attestors::open(options).await.unwrap()
    }
}

pub(crate) fn attestation(token: &str) -> Option<Attestation> {
    Some(Attestation {
        evidence: Some(Evidence::KubernetesToken(token.to_owned())),
    })
}

pub(crate) fn request(id: &str, leaf: &LeafKey, token: &str) -> IssueRequest {
    IssueRequest {
        spiffe_id: id.to_owned(),
        csr: leaf.csr.clone(),
        attestation: attestation(token),
        ..IssueRequest::default()
    }
}
