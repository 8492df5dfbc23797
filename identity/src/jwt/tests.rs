use super::*;
use crate::{SpiffeId, TrustDomain};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SUBJECT: &str = "spiffe://domain.test/web";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_780_000_000)
}

struct Signer {
    pair: EcdsaKeyPair,
    keys: JwtKeys,
}

impl Signer {
    fn new(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let mut keys = JwtKeys::default();
        keys.insert(JwtKey::p256(kid, pair.public_key().as_ref()).unwrap());
        Self { pair, keys }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, aws_lc_rs::error::Unspecified> {
        let signature = self.pair.sign(&SystemRandom::new(), message)?;
        Ok(signature.as_ref().to_vec())
    }

    /// As [`encode`] makes it.
    fn token(&self, kid: &str) -> String {
        let id = SpiffeId::parse(SUBJECT).unwrap();
        let life = (now(), now() + Duration::from_secs(300));
        let audience = ["api".to_owned(), "other".to_owned()];
        encode(kid, (&id, &audience), life, "one", |text| self.sign(text)).unwrap()
    }

    /// With whatever header and claims.
    fn token_of(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.sign(signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn verify(keys: &JwtKeys, token: &str) -> Result<Claims, JwtError> {
    let domain = TrustDomain::parse("domain.test").unwrap();
    keys.verify(&domain, token, "api", now())
}

#[test]
fn a_token_says_whose_it_is_and_for_whom() {
    let signer = Signer::new("a");
    let token = signer.token("a");
    let claims = verify(&signer.keys, &token).unwrap();
    assert_eq!(claims.subject.as_str(), SUBJECT);
    assert_eq!(claims.audience, ["api", "other"]);
    assert_eq!(claims.expires, now() + Duration::from_secs(300));
    assert_eq!(claims.all["jti"], "one");
    assert_eq!(
        claimed_trust_domain(&token).unwrap().as_str(),
        "domain.test"
    );
    // The published form of the keys is enough.
    let published = JwtKeys::from_jwks(signer.keys.to_jwks().as_bytes()).unwrap();
    assert_eq!(published, signer.keys);
}

#[test]
fn tokens_that_break_a_rule_are_refused() {
    let signer = Signer::new("a");
    let header = json!({"alg": "ES256", "kid": "a"});
    let claims = json!({"sub": SUBJECT, "aud": ["api"], "exp": 1_780_000_300});
    let with = |value: &Value, name: &str, other: Value| {
        let mut value = value.clone();
        value[name] = other;
        value
    };
    let without = |value: &Value, name: &str| {
        let mut value = value.clone();
        value.as_object_mut().unwrap().remove(name);
        value
    };
    let header_with =
        |name: &str, other: Value| signer.token_of(&with(&header, name, other), &claims);
    let claims_with =
        |name: &str, other: Value| signer.token_of(&header, &with(&claims, name, other));
    let good = signer.token_of(&header, &claims);
    assert!(verify(&signer.keys, &good).is_ok());
    assert!(verify(&signer.keys, &header_with("typ", json!("JOSE"))).is_ok());
    assert!(verify(&signer.keys, &claims_with("aud", json!("api"))).is_ok());
    let (head, rest) = good.split_once('.').unwrap();
    let none = URL_SAFE_NO_PAD.encode(json!({"alg": "none", "kid": "a"}).to_string());
    for (token, expected) in [
        (String::new(), JwtError::Form),
        (format!("{head}.{head}"), JwtError::Form),
        (format!("{good}.x"), JwtError::Form),
        (format!("{good}="), JwtError::Form),
        (format!("{good}{}", "a".repeat(20_000)), JwtError::TooLong),
        (format!("{none}.{rest}"), JwtError::Signature),
        (
            format!("{none}.{}.", rest.split('.').next().unwrap()),
            JwtError::Signature,
        ),
        (header_with("alg", json!("HS256")), JwtError::Signature),
        (header_with("alg", json!("ES384")), JwtError::Signature),
        (header_with("alg", json!("RS256")), JwtError::Signature),
        (header_with("kid", json!("b")), JwtError::UnknownKey),
        (
            signer.token_of(&without(&header, "kid"), &claims),
            JwtError::UnknownKey,
        ),
        (header_with("typ", json!("at+jwt")), JwtError::Header),
        (header_with("crit", json!(["exp"])), JwtError::Header),
        (Signer::new("a").token("a"), JwtError::Signature),
        (
            claims_with("sub", json!("spiffe://other.test/web")),
            JwtError::ForeignSubject,
        ),
        (claims_with("sub", json!("web")), JwtError::Claims),
        (
            signer.token_of(&header, &without(&claims, "sub")),
            JwtError::Claims,
        ),
        (
            signer.token_of(&header, &without(&claims, "exp")),
            JwtError::Claims,
        ),
        (
            signer.token_of(&header, &without(&claims, "aud")),
            JwtError::Claims,
        ),
        (claims_with("aud", json!([])), JwtError::Claims),
        (claims_with("aud", json!(["api", 1])), JwtError::Claims),
        (claims_with("aud", json!(["API"])), JwtError::Audience),
        (claims_with("exp", json!(1_779_999_995)), JwtError::Expired),
        (claims_with("exp", json!("1780000300")), JwtError::Claims),
        (claims_with("exp", json!(-1)), JwtError::Claims),
        (
            claims_with("nbf", json!(1_780_000_100)),
            JwtError::NotYetValid,
        ),
        (claims_with("nbf", json!("now")), JwtError::Claims),
    ] {
        assert_eq!(verify(&signer.keys, &token), Err(expected), "{token}");
    }
}

#[test]
fn keys_of_other_uses_and_kinds_are_passed_over_and_damaged_ones_refused() {
    let key = |more: Value| {
        let mut jwk = json!({"kty": "EC", "crv": "P-256", "use": "jwt-svid", "kid": "a",
            "x": URL_SAFE_NO_PAD.encode([1; 32]), "y": URL_SAFE_NO_PAD.encode([2; 32])});
        for (name, value) in more.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        let set = json!({"keys": [jwk]}).to_string();
        JwtKeys::from_jwks(set.as_bytes()).map(|keys| !keys.is_empty())
    };
    assert_eq!(key(json!({})), Ok(true));
    assert_eq!(key(json!({"use": "x509-svid"})), Ok(false));
    assert_eq!(key(json!({"crv": "P-521"})), Ok(false));
    assert_eq!(key(json!({"kty": "OKP"})), Ok(false));
    assert_eq!(key(json!({"kid": ""})), Err(JwtKeyError::NoName));
    assert_eq!(
        key(json!({"x": "AQ"})),
        Err(JwtKeyError::Damaged("x and y"))
    );
    assert_eq!(key(json!({"x": "?"})), Err(JwtKeyError::Damaged("x")));
    assert_eq!(key(json!({"y": null})), Err(JwtKeyError::Missing("y")));
    assert_eq!(JwtKeys::from_jwks(b"[]"), Err(JwtKeyError::NotASet));
}
