//! Keys that are forgotten here and still in a token: what they were is in the audit record, whatever forgot them.

use super::*;
use crate::signer::pkcs11::Reference;

const OBJECT: &str = "c0ffee";

impl Ca {
    /// As if the key of what is prepared were in a token.
    fn put_in_token(&self, authority: &str) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let public = crate::csr::PublicKey::from_spki(&key.subject_public_key_info()).unwrap();
        let id = vec![0xc0, 0xff, 0xee];
        let text = Reference { id, public }.to_text("intermediate");
        self.edit(&format!(
            "UPDATE authority SET key_file = '{text}' WHERE name = '{authority}'"
        ));
    }

    async fn prepared_in_token(&self) -> String {
        let Prepared::Ready(name) = self.prepare(Role::Intermediate).await.unwrap() else {
            panic!("the root's key is here");
        };
        self.put_in_token(&name);
        name
    }

    fn last_record(&self) -> serde_json::Value {
        let database = Connection::open(self.dir.join(crate::directory::DATABASE)).unwrap();
        let last = "SELECT event FROM audit ORDER BY seq DESC LIMIT 1";
        let event: String = database.query_row(last, [], |row| row.get(0)).unwrap();
        serde_json::from_str(&event).unwrap()
    }
}

#[tokio::test]
async fn an_intermediate_that_was_prepared_for_the_old_root_names_its_key_when_the_new_one_signs() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    ca.prepare(Role::Root).await.unwrap();
    ca.prepared_in_token().await;
    let step = ca.activate(Role::Root).await.unwrap();
    assert_eq!(step.left_in_token, [OBJECT]);
    assert_eq!(
        ca.last_record()["left_in_token"],
        serde_json::json!([OBJECT])
    );
}

#[tokio::test]
async fn what_was_prepared_and_revoked_names_its_key_when_another_takes_its_place() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    let name = ca.prepared_in_token().await;
    let revoked = ca
        .authority
        .store()
        .revoke(target(&name), Reason::default(), SystemTime::now());
    revoked.await.unwrap().unwrap();
    ca.prepare(Role::Intermediate).await.unwrap();
    assert_eq!(
        ca.last_record()["left_in_token"],
        serde_json::json!([OBJECT])
    );
}

#[tokio::test]
async fn what_is_given_up_or_retired_names_its_key_and_a_key_that_is_in_no_token_is_not_named() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    ca.prepared_in_token().await;
    let step = ca.abandon(Role::Intermediate).await.unwrap();
    assert_eq!(step.left_in_token, [OBJECT]);
    assert_eq!(
        ca.last_record()["left_in_token"],
        serde_json::json!([OBJECT])
    );

    ca.prepare(Role::Intermediate).await.unwrap();
    assert_eq!(ca.last_record().get("left_in_token"), None);
    let store = ca.authority.store();
    let issuer = store.generations().await.unwrap();
    ca.put_in_token(&issuer.issuer().unwrap().name);
    let step = ca.activate(Role::Intermediate).await.unwrap();
    assert!(step.left_in_token.is_empty(), "it is still needed");
    assert_eq!(ca.last_record().get("left_in_token"), None);
    let retired =
        store.retire_authority(Role::Intermediate, PATIENT, By::Operator, SystemTime::now());
    assert_eq!(retired.await.unwrap().unwrap().left_in_token, [OBJECT]);
    assert_eq!(
        ca.last_record()["left_in_token"],
        serde_json::json!([OBJECT])
    );
}
