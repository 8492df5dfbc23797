use super::*;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn p256() -> (EcdsaKeyPair, Value) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref().to_vec();
    let jwk = json!({"kty": "EC", "crv": "P-256", "kid": "a", "alg": "ES256", "use": "sig",
        "x": encoded(&point[1..33]), "y": encoded(&point[33..])});
    (pair, jwk)
}

/// A modulus that is none, of the right form: enough for what is read of it.
fn rsa(bytes: usize) -> Value {
    json!({"kty": "RSA", "kid": "r", "n": encoded(&vec![0xc5; bytes]), "e": "AQAB"})
}

fn parse(keys: &Value) -> Result<KeySet, JwksError> {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
}

fn with(mut jwk: Value, name: &str, value: Value) -> Value {
    jwk[name] = value;
    jwk
}

#[test]
fn a_key_verifies_what_was_signed_with_it_and_nothing_else() {
    let (pair, jwk) = p256();
    let keys = parse(&json!([jwk])).unwrap();
    let key = keys.get("a").unwrap();
    let signature = pair.sign(&SystemRandom::new(), b"message").unwrap();
    assert!(key.verify(b"message", signature.as_ref()));
    assert!(!key.verify(b"messagf", signature.as_ref()));
    assert!(!key.verify(b"message", &signature.as_ref()[1..]));
    assert!(!key.verify(b"message", &[0; 64]));
    assert!(!key.verify(b"message", b""));
    assert!(keys.get("b").is_none());
}

#[test]
fn keys_of_no_use_are_left_out_and_a_set_of_nothing_else_is_refused() {
    let (_, good) = p256();
    for useless in [
        with(good.clone(), "kty", json!("OKP")),
        with(good.clone(), "crv", json!("P-384")),
        with(good.clone(), "alg", json!("RS256")),
        with(good.clone(), "alg", json!("HS256")),
        with(good.clone(), "alg", json!(7)),
        with(good.clone(), "use", json!("enc")),
        with(good.clone(), "kid", json!(1)),
        with(good.clone(), "x", json!("AAAA")),
        with(good.clone(), "y", good["x"].clone()),
        with(
            good.clone(),
            "x",
            json!(format!("{}=", good["x"].as_str().unwrap())),
        ),
        rsa(128),
        rsa(2048),
        with(rsa(256), "e", json!("")),
        with(
            rsa(256),
            "n",
            json!(encoded(&[&[0][..], &[0xc5; 256]].concat())),
        ),
        json!("a key"),
    ] {
        let refused = parse(&json!([useless])).err();
        assert!(matches!(refused, Some(JwksError::Nothing)), "{useless}");
        let other = with(good.clone(), "kid", json!("other"));
        assert!(
            parse(&json!([useless, other]))
                .unwrap()
                .get("other")
                .is_some()
        );
    }
}

#[test]
fn who_gives_secrets_away_or_names_two_keys_alike_is_not_believed() {
    let (_, good) = p256();
    let (_, second) = p256();
    let secret = json!({"kty": "oct", "kid": "s", "k": "c2VjcmV0", "alg": "HS256"});
    for (keys, expected) in [
        (json!([good, secret]), "symmetric"),
        (
            json!([with(good.clone(), "d", json!("AAAA"))]),
            "private part",
        ),
        (json!([good, second]), "twice"),
        (json!({"a": good}), "a list `keys`"),
        (json!(vec![good; 65]), "at most 64"),
    ] {
        let said = parse(&keys).unwrap_err().to_string();
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let huge = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(MAX_BYTES));
    assert!(matches!(
        KeySet::parse(huge.as_bytes()),
        Err(JwksError::Size { .. })
    ));
}
