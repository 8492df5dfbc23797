use super::*;
use crate::authority::Authority;
use crate::config::InitOptions;
use crate::csr::PublicKey;
use crate::directory::DATABASE;
use crate::keys::Passphrase;
use crate::signer::pkcs11::Reference;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use tempfile::TempDir;

struct Ca {
    _folder: TempDir,
    dir: PathBuf,
    authority: Authority,
}

impl Ca {
    fn new(protection: KeyProtection, options: &OpenOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ca");
        let domain = TrustDomain::parse("demo.test").unwrap();
        crate::init(&dir, &InitOptions::new(domain, protection)).unwrap();
        let authority = Authority::open(&dir, options).unwrap();
        Self {
            _folder: folder,
            dir,
            authority,
        }
    }

    fn plain() -> Self {
        Self::new(KeyProtection::InsecurePlaintext, &OpenOptions::default())
    }

    async fn prepare(&self, options: &OpenOptions, lives: Lives) -> Result<Prepared, PrepareError> {
        let (store, role) = (self.authority.store(), Role::Intermediate);
        prepare(&self.dir, options, store, role, lives, By::Operator).await
    }

    async fn authorities(&self) -> usize {
        self.authority.store().generations().await.unwrap().0.len()
    }

    fn edit(&self, sql: &str) {
        let database = rusqlite::Connection::open(self.dir.join(DATABASE)).unwrap();
        database.execute(sql, []).unwrap();
    }
}

#[tokio::test]
async fn a_database_that_takes_nothing_is_found_out_before_any_key_is_looked_at_or_made() {
    let open = |word: &[u8]| OpenOptions {
        passphrase: Passphrase::new(word.to_vec()).ok(),
        ..OpenOptions::default()
    };
    let sealed = KeyProtection::Encrypted(Passphrase::new(b"right".to_vec()).unwrap());
    let ca = Ca::new(sealed, &open(b"right"));
    ca.edit("CREATE TRIGGER full BEFORE INSERT ON change BEGIN SELECT RAISE(ABORT, 'full'); END");
    let refused = ca.prepare(&open(b"wrong"), Lives::default()).await;
    assert!(
        matches!(refused, Err(PrepareError::Store(_))),
        "{refused:?}"
    );
    ca.edit("DROP TRIGGER full");
    let refused = ca.prepare(&open(b"wrong"), Lives::default()).await;
    assert!(matches!(refused, Err(PrepareError::Key(_))), "{refused:?}");
}

#[tokio::test]
async fn a_life_in_which_nothing_could_be_activated_is_refused_before_anything_is_made() {
    let ca = Ca::plain();
    let usual = Lives::default();
    let second = Duration::from_secs(1);
    for (root, intermediate) in [
        (usual.root, second),
        (usual.root, MIN_CA_LIFE - second),
        (second, usual.intermediate),
        (MAX_CA_LIFE + second, usual.intermediate),
    ] {
        let refused = ca
            .prepare(&OpenOptions::default(), Lives { root, intermediate })
            .await;
        assert!(
            matches!(refused, Err(PrepareError::Life { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(ca.authorities().await, 0);
    let least = Lives {
        intermediate: MIN_CA_LIFE,
        ..usual
    };
    ca.prepare(&OpenOptions::default(), least).await.unwrap();
}

#[tokio::test]
async fn beside_another_key_than_the_issuers_nothing_is_made() {
    let (ca, other) = (Ca::plain(), Ca::plain());
    fs::copy(
        other.dir.join(INTERMEDIATE_KEY),
        ca.dir.join(INTERMEDIATE_KEY),
    )
    .unwrap();
    let refused = ca.prepare(&OpenOptions::default(), Lives::default()).await;
    assert!(
        matches!(refused, Err(PrepareError::Certificate)),
        "{refused:?}"
    );
    assert_eq!(ca.authorities().await, 0);
}

#[tokio::test]
async fn a_root_of_which_the_directory_has_another_ones_key_is_elsewhere() {
    let (ca, other) = (Ca::plain(), Ca::plain());
    fs::copy(other.dir.join(ROOT_KEY), ca.dir.join(ROOT_KEY)).unwrap();
    let prepared = ca.prepare(&OpenOptions::default(), Lives::default()).await;
    assert!(
        matches!(prepared, Ok(Prepared::Requested(_))),
        "{prepared:?}"
    );
}

#[tokio::test]
async fn keys_that_an_authority_has_are_not_those_that_nobody_uses() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let public = PublicKey::from_spki(&key.subject_public_key_info()).unwrap();
    let in_token = |id: u8| {
        let (id, public) = (vec![id], public.clone());
        Zeroizing::new(Reference { id, public }.to_text(ISSUING))
    };
    let ca = Ca::plain();
    ca.prepare(&OpenOptions::default(), Lives::default())
        .await
        .unwrap();
    let mut present = ca.authority.store().generations().await.unwrap();
    present.0[0].key = KeyFile(Some(in_token(1)));

    let mut fresh = Fresh::default();
    for id in 0..3 {
        fresh.add(in_token(id));
    }
    fresh.recorded(&present);
    assert_eq!(fresh.objects(), ["00", "02"]);
}
