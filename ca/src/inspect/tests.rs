use super::*;
use crate::config::{InitOptions, KeyProtection, OpenOptions};
use crate::csr::PublicKey;
use crate::store::TokenGrant;
use crate::token::JoinToken;
use crate::{Authority, Request, Requester};
use identity::{SpiffeId, TrustDomain};
use rcgen::{KeyPair, PublicKeyData};
use std::time::Duration;

const ORDERS: &str = "spiffe://demo.test/ns/shop/sa/orders";

#[tokio::test]
async fn what_was_issued_is_listed() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("ca");
    let domain = TrustDomain::parse("demo.test").unwrap();
    let options = InitOptions::new(domain, KeyProtection::InsecurePlaintext);
    crate::init(&directory, &options).unwrap();
    let ca = Authority::open(&directory, &OpenOptions::default()).unwrap();
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    let key = KeyPair::generate().unwrap();
    let public_key = PublicKey::from_spki(&key.subject_public_key_info()).unwrap();
    let id = SpiffeId::parse(ORDERS).unwrap();
    let issued = ca
        .issue(Request {
            id: id.clone(),
            dns_names: Default::default(),
            public_key: public_key.clone(),
            ttl: None,
            until: None,
            requester: Requester::Operator,
        })
        .await
        .unwrap();
    let used = JoinToken::generate();
    for (token, life) in [
        (&used, hour),
        (&JoinToken::generate(), hour),
        (&JoinToken::generate(), hour / 60),
    ] {
        let grant = TokenGrant {
            spiffe_id: id.clone(),
            created_at: now,
            expires_at: now + life,
            ttl: None,
        };
        ca.store().create_token(token, grant).await.unwrap();
    }
    ca.store()
        .redeem(&used, &id, &public_key, now)
        .await
        .unwrap()
        .unwrap();

    let listed = certificates(&directory, now, 10).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].serial.as_str(), listed[0].spiffe_id.as_str()),
        (issued.serial.as_str(), ORDERS)
    );
    assert!(
        certificates(&directory, now + 2 * hour, 10)
            .unwrap()
            .is_empty()
    );
    let (found, der) = certificate(&directory, &issued.serial).unwrap().unwrap();
    assert_eq!(
        (found, der),
        (listed.into_iter().next().unwrap(), issued.chain[0].clone())
    );
    assert!(certificate(&directory, "00").unwrap().is_none());

    let later = now + hour / 2;
    let count = |state| {
        let tokens = tokens(&directory, later, 10).unwrap();
        tokens.iter().filter(|token| token.state == state).count()
    };
    let counts = [TokenState::Open, TokenState::Used, TokenState::Expired].map(count);
    assert_eq!(counts, [1, 1, 1]);

    let overview = overview(&directory, &directory, later).unwrap();
    let json = serde_json::to_value(&overview).unwrap();
    assert_eq!(json["unexpired_certificates"], 1);
    assert_eq!(json["open_tokens"], 1);
    assert_eq!(json["enrolments"], 1);
    assert_eq!(json["audit_records"], 6);
    let text = overview.to_string();
    assert!(
        text.starts_with(
            "trust domain   demo.test\ntrust bundle   sequence 1\nroot           Tipstaff root "
        ),
        "{text}"
    );
}
