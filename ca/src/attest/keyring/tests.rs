use super::*;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

/// A published key and a token signed with it.
fn signed(kid: &str) -> (Value, String) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref().to_vec();
    let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let jwk = json!({"kty": "EC", "crv": "P-256", "kid": kid,
        "x": encoded(&point[1..33]), "y": encoded(&point[33..])});
    let header = json!({"alg": "ES256", "kid": kid}).to_string();
    let text = format!("{}.{}", encoded(header.as_bytes()), encoded(b"{}"));
    let signature = pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
    (jwk, format!("{text}.{}", encoded(signature.as_ref())))
}

struct File {
    dir: tempfile::TempDir,
}

impl File {
    fn path(&self) -> PathBuf {
        self.dir.path().join("jwks")
    }

    fn write(&self, keys: &[&Value]) {
        std::fs::write(self.path(), json!({ "keys": keys }).to_string()).unwrap();
    }
}

async fn open(keys: &[&Value]) -> (File, Keyring) {
    let dir = tempfile::tempdir().unwrap();
    let file = File { dir };
    file.write(keys);
    let keyring = Keyring::open(KeySource::File(file.path())).await.unwrap();
    (file, keyring)
}

async fn check(keyring: &Keyring, token: &str) -> Result<(), AttestError> {
    keyring.check_signature(&Token::parse(token).unwrap()).await
}

const UNKNOWN: Result<(), AttestError> = Err(AttestError::Token(TokenError::UnknownKey));

#[tokio::test(start_paused = true)]
async fn a_new_key_is_looked_for_but_not_at_every_token_that_names_one() {
    let ((old, _), (new, token)) = (signed("old"), signed("new"));
    let (file, keyring) = open(&[&old]).await;
    file.write(&[&old, &new]);
    assert_eq!(check(&keyring, &token).await, UNKNOWN);
    tokio::time::advance(LOOK_AGAIN).await;
    assert_eq!(check(&keyring, &token).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_withdrawn_is_soon_not_believed() {
    let ((old, token), (new, _)) = (signed("old"), signed("new"));
    let (file, keyring) = open(&[&old]).await;
    file.write(&[&new]);
    assert_eq!(check(&keyring, &token).await, Ok(()));
    tokio::time::advance(REFRESH).await;
    assert_eq!(check(&keyring, &token).await, UNKNOWN);
}

#[tokio::test(start_paused = true)]
async fn the_last_good_keys_stay_while_the_source_is_bad() {
    let ((key, token), (_, other)) = (signed("key"), signed("other"));
    let (file, keyring) = open(&[&key]).await;
    for broken in [
        "{}",
        r#"{"keys": []}"#,
        r#"{"keys": [{"kty": "oct", "kid": "key", "k": ""}]}"#,
    ] {
        std::fs::write(file.path(), broken).unwrap();
        tokio::time::advance(REFRESH).await;
        assert_eq!(check(&keyring, &token).await, Ok(()), "{broken}");
        // Perhaps it is published, and we cannot see it.
        let unseen = check(&keyring, &other).await;
        assert_eq!(unseen, Err(AttestError::Unavailable), "{broken}");
    }
}

#[tokio::test(start_paused = true)]
async fn keys_that_nobody_has_seen_for_a_day_are_not_believed_until_they_are_seen() {
    let (key, token) = signed("key");
    let (file, keyring) = open(&[&key]).await;
    std::fs::remove_file(file.path()).unwrap();
    tokio::time::advance(MAX_AGE - Duration::from_secs(1)).await;
    assert_eq!(check(&keyring, &token).await, Ok(()));
    tokio::time::advance(Duration::from_secs(1)).await;
    let unseen = check(&keyring, &token).await;
    assert_eq!(unseen, Err(AttestError::Unavailable));
    file.write(&[&key]);
    tokio::time::advance(LOOK_AGAIN).await;
    assert_eq!(check(&keyring, &token).await, Ok(()));
}

#[tokio::test]
async fn a_file_that_is_bad_at_the_start_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = File { dir };
    let open = || Keyring::open(KeySource::File(file.path()));
    assert!(open().await.is_err(), "missing");
    std::fs::write(file.path(), "{}").unwrap();
    assert!(open().await.is_err(), "no keys");
}
