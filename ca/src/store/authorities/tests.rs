use super::*;
use crate::authority::{Authority, IssueError, Issued};
use crate::config::{InitOptions, KeyProtection, OpenOptions};
use crate::csr::KeyHash;
use crate::keys::Passphrase;
use crate::profile::{self, CaCertificate, Validity};
use crate::revoke::{Reason, Target};
use crate::rotation::{self, Lives, PrepareError, Prepared};
use crate::signer::CaKey;
use crate::store::{Postgres, ServerTrust};
use crate::{Request, Requester};
use identity::{SpiffeId, TrustDomain};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rusqlite::Connection;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

mod abandoned;
mod cut_off;
mod files;
mod follows;
mod forgotten;

const PATIENT: Terms = Terms {
    percent: 100,
    published_for: Duration::ZERO,
    force: false,
};

/// The database knows whole seconds.
const LATE: Duration = Duration::from_secs(2);

fn passphrase() -> Passphrase {
    Passphrase::new(b"right".to_vec()).unwrap()
}

struct Ca {
    _folder: TempDir,
    dir: PathBuf,
    options: OpenOptions,
    authority: Arc<Authority>,
}

impl Ca {
    fn new(protection: KeyProtection) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ca");
        let domain = TrustDomain::parse("demo.test").unwrap();
        crate::init(&dir, &InitOptions::new(domain, protection)).unwrap();
        let options = OpenOptions {
            passphrase: Some(passphrase()),
            ..OpenOptions::default()
        };
        let authority = Arc::new(Authority::open(&dir, &options).unwrap());
        Self {
            _folder: folder,
            dir,
            options,
            authority,
        }
    }

    async fn prepare(&self, role: Role) -> Result<Prepared, PrepareError> {
        let store = self.authority.store();
        rotation::prepare(
            &self.dir,
            &self.options,
            store,
            role,
            Lives::default(),
            By::Operator,
        )
        .await
    }

    async fn activate(&self, role: Role) -> Result<Step, Refused> {
        let store = self.authority.store();
        let done = store.activate_authority(role, PATIENT, By::Operator, SystemTime::now());
        done.await.unwrap()
    }

    async fn abandon(&self, role: Role) -> Result<Step, Refused> {
        let store = self.authority.store();
        let done = store.abandon_authority(role, By::Operator, SystemTime::now());
        done.await.unwrap()
    }

    async fn issuer(&self) -> CertificateDer<'static> {
        self.issue().await.unwrap().chain[1].clone()
    }

    async fn issue(&self) -> Result<Issued, IssueError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let request = Request {
            id: SpiffeId::parse("spiffe://demo.test/a").unwrap(),
            dns_names: Default::default(),
            public_key: crate::csr::PublicKey::from_spki(&key.subject_public_key_info()).unwrap(),
            ttl: None,
            until: None,
            requester: Requester::Operator,
        };
        self.authority.issue(request).await
    }

    fn edit(&self, sql: &str) {
        let database = self.dir.join(crate::directory::DATABASE);
        Connection::open(database)
            .unwrap()
            .execute(sql, [])
            .unwrap();
    }
}

fn target(authority: &str) -> Target {
    Target::Authority(KeyHash::parse(authority).unwrap().0)
}

/// What a root elsewhere would make of a request, with the key that was taken from the CA's directory.
fn signed_elsewhere(dir: &Path, root_key: &str, request: &str) -> String {
    let request = CertificateSigningRequestDer::from_pem_slice(request.as_bytes()).unwrap();
    let key = crate::csr::PublicKey::from_csr(&request).unwrap();
    let root = fs::read(dir.join("root.pem")).unwrap();
    let der = CertificateDer::from_pem_slice(&root).unwrap();
    let info = CaCertificate::parse(&der).unwrap();
    let root_key = CaKey::in_memory(KeyPair::from_pem(root_key).unwrap());
    let domain = TrustDomain::parse("demo.test").unwrap();
    let life = Validity::of_ca(SystemTime::now(), Duration::from_secs(30 * 24 * 3600));
    let certificate = profile::intermediate(&domain, &key, life)
        .and_then(|params| params.signed_by(&key, &info.issuer(root_key).unwrap()))
        .unwrap();
    certificate.pem() + std::str::from_utf8(&root).unwrap()
}

#[tokio::test]
async fn what_a_root_elsewhere_signed_is_taken_and_nothing_else() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    let root_key = fs::read_to_string(ca.dir.join("root.key")).unwrap();
    fs::remove_file(ca.dir.join("root.key")).unwrap();
    let Prepared::Requested(request) = ca.prepare(Role::Intermediate).await.unwrap() else {
        panic!("the root's key is elsewhere");
    };
    let again = ca.prepare(Role::Intermediate).await.unwrap();
    assert_eq!(
        again,
        Prepared::Requested(request.clone()),
        "the same request"
    );
    let refused = ca.activate(Role::Intermediate).await;
    assert_eq!(refused, Err(Refused::NothingPrepared(Role::Intermediate)));

    let chain = signed_elsewhere(&ca.dir, &root_key, &request).into_bytes();
    let (options, store) = (&ca.options, ca.authority.store());
    let take =
        |role, chain: &[u8]| rotation::accept(options, store, role, chain.to_vec(), By::Operator);
    let foreign = Ca::new(KeyProtection::InsecurePlaintext);
    let foreign_key = fs::read_to_string(foreign.dir.join("root.key")).unwrap();
    let other = signed_elsewhere(&foreign.dir, &foreign_key, &request).into_bytes();
    let refused = take(Role::Intermediate, &other).await;
    assert!(
        matches!(refused, Err(PrepareError::OtherRoot)),
        "{refused:?}"
    );
    let refused = take(Role::Root, &chain).await;
    assert!(
        matches!(refused, Err(PrepareError::SameRoot)),
        "{refused:?}"
    );
    let refused = take(Role::Intermediate, b"").await;
    assert!(
        matches!(refused, Err(PrepareError::Chain(_))),
        "{refused:?}"
    );

    let before = ca.issuer().await;
    let taken = take(Role::Intermediate, &chain).await.unwrap();
    assert!(matches!(taken, Prepared::Ready(_)), "{taken:?}");
    ca.activate(Role::Intermediate).await.unwrap();
    assert!(ca.authority.read_authorities().await);
    assert_ne!(ca.issuer().await, before);
}

#[tokio::test]
async fn a_root_signs_once_other_trust_domains_had_time_to_ask_for_it_or_by_force_with_a_word() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    ca.prepare(Role::Root).await.unwrap();
    let terms = Terms {
        published_for: rotation::DEFAULT_PUBLISHED_FOR,
        ..PATIENT
    };
    let store = ca.authority.store();
    let at = |terms, now| store.activate_authority(Role::Root, terms, By::Operator, now);
    let now = SystemTime::now();
    let refused = at(terms, now).await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("other trust domains"));
    let forced = Terms {
        force: true,
        ..terms
    };
    let early = at(forced, now).await.unwrap().unwrap();
    let said = early.despite[0].consequence();
    assert!(said.contains("have not asked for the bundle yet"), "{said}");

    ca.prepare(Role::Root).await.unwrap();
    let in_time = at(terms, now + rotation::DEFAULT_PUBLISHED_FOR + LATE).await;
    assert_eq!(in_time.unwrap().unwrap().despite, []);
}

#[tokio::test]
async fn keys_in_the_database_are_sealed_as_files_are_and_a_plain_one_does_not_go_to_another_server()
 {
    let ca = Ca::new(KeyProtection::Encrypted(passphrase()));
    ca.prepare(Role::Root).await.unwrap();
    let generations = ca.authority.store().generations().await.unwrap();
    let texts: Vec<_> = generations
        .0
        .iter()
        .filter_map(|one| one.key.0.clone())
        .collect();
    assert_eq!(texts.len(), 3, "of two intermediates and the new root");
    assert!(texts.iter().all(|text| !keys::is_plaintext(text)));

    let mut plain = Ca::new(KeyProtection::InsecurePlaintext);
    let url = "postgres://ca@127.0.0.1/ca";
    let server = Postgres::new(url, &ServerTrust::SameMachine).unwrap();
    plain.options.database = Some(Database::Postgres(server));
    let refused = plain.prepare(Role::Intermediate).await;
    assert!(
        matches!(refused, Err(PrepareError::PlaintextElsewhere)),
        "{refused:?}"
    );
}

#[tokio::test]
async fn two_that_prepare_at_once_prepare_one_root_and_a_root_made_for_another_is_refused() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    let (first, second) = tokio::join!(ca.prepare(Role::Root), ca.prepare(Role::Root));
    assert_eq!(first.unwrap(), second.unwrap());
    let bundle = ca.authority.store().bundle().await.unwrap();
    assert_eq!((bundle.authorities().len(), bundle.sequence()), (2, 2));

    let generations = ca.authority.store().generations().await.unwrap();
    let mut late = generations.issuer().unwrap().clone();
    (late.name, late.parent, late.state) = (
        "late".to_owned(),
        Some("another".to_owned()),
        State::Prepared,
    );
    let new = New {
        role: Role::Intermediate,
        adopted: Vec::new(),
        made: vec![late],
    };
    let refused = ca
        .authority
        .store()
        .prepare_authority(new, By::Age, SystemTime::now())
        .await;
    assert_eq!(refused.unwrap().unwrap_err(), Refused::Overtaken);
}

#[tokio::test]
async fn the_root_that_signs_is_never_taken_from_the_bundle() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    ca.prepare(Role::Root).await.unwrap();
    ca.activate(Role::Root).await.unwrap();
    // As only tampering can bring about.
    let store = ca.authority.store();
    let generations = store.generations().await.unwrap();
    let old = generations.retiring(Role::Root).next().unwrap();
    let only = vec![old.certificate.clone().unwrap()];
    let domain = TrustDomain::parse("demo.test").unwrap();
    let bundle = TrustBundle::new(domain, only, 0).unwrap();
    store
        .publish_bundle(bundle, SystemTime::now())
        .await
        .unwrap();
    let forced = Terms {
        force: true,
        ..PATIENT
    };
    let refused = store.retire_authority(Role::Root, forced, By::Operator, SystemTime::now());
    assert_eq!(refused.await.unwrap(), Err(Refused::RootMissing));
    assert_eq!(store.bundle().await.unwrap().authorities().len(), 1);
}

#[tokio::test]
async fn the_old_root_counts_as_one_that_signs_while_the_cas_own_certificate_is_under_it() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    ca.prepare(Role::Root).await.unwrap();
    ca.activate(Role::Root).await.unwrap();
    let store = ca.authority.store();
    let generations = store.generations().await.unwrap();
    let old = generations.retiring(Role::Root).next().unwrap();
    let below = generations.below(&old.name).next().unwrap();
    let signs = |one: &Generation| {
        let database = ca.options.database_in(&ca.dir);
        crate::inspect::is_signing(&ca.dir, &database, &target(&one.name)).unwrap()
    };
    assert!(signs(old) && signs(below));
    let retired = store.retire_authority(Role::Root, PATIENT, By::Operator, SystemTime::now());
    retired.await.unwrap().unwrap();
    assert!(!signs(old) && !signs(below));
}

#[tokio::test]
async fn what_was_revoked_after_it_was_prepared_is_not_activated_and_another_takes_its_place() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    let store = ca.authority.store();
    for role in [Role::Root, Role::Intermediate] {
        let Prepared::Ready(name) = ca.prepare(role).await.unwrap() else {
            panic!("the root's key is here");
        };
        let present = store.generations().await.unwrap();
        // Of a root, its intermediate: that is enough.
        let revoked = present.below(&name).next().map_or(&name, |one| &one.name);
        store
            .revoke(target(revoked), Reason::default(), SystemTime::now())
            .await
            .unwrap()
            .unwrap();
        let refused = ca.activate(role).await;
        assert!(
            matches!(&refused, Err(Refused::Revoked { name: found, .. }) if *found == name),
            "{refused:?}"
        );
        let Prepared::Ready(next) = ca.prepare(role).await.unwrap() else {
            panic!("the root's key is here");
        };
        assert_ne!(next, name);
        let present = store.generations().await.unwrap();
        assert_eq!(present.named(&name).unwrap().state, State::Retired);
        assert_eq!(store.bundle().await.unwrap().authorities().len(), 2);
        let step = ca.activate(role).await.unwrap();
        assert_eq!(step.authorities[0], next);
    }
    let report = crate::ledger::verify(&ca.dir).unwrap();
    assert!(report.is_intact(), "{report}");
}

#[tokio::test]
async fn an_authority_with_the_key_of_one_that_counts_does_not_take_its_place() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    ca.prepare(Role::Intermediate).await.unwrap();
    let store = ca.authority.store();
    let before = store.generations().await.unwrap();
    let mut renewed = before.root().unwrap().clone();
    renewed.state = State::Prepared;
    let name = renewed.name.clone();
    let new = New {
        role: Role::Root,
        adopted: Vec::new(),
        made: vec![renewed],
    };
    let refused = store
        .prepare_authority(new, By::Operator, SystemTime::now())
        .await
        .unwrap();
    let in_use = Refused::KeyInUse {
        name,
        state: State::Active,
    };
    assert_eq!(refused.unwrap_err(), in_use);
    let present = store.generations().await.unwrap();
    assert!(present.root().is_some() && present.issuer().is_some());
    assert_eq!(store.bundle().await.unwrap().sequence(), 1);
}

#[tokio::test]
async fn what_is_not_valid_yet_or_ends_within_a_day_is_not_activated_not_even_by_force() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    ca.prepare(Role::Intermediate).await.unwrap();
    let day = Duration::from_secs(24 * 3600);
    let forced = Terms {
        force: true,
        ..PATIENT
    };
    let now = SystemTime::now();
    for wrong in [now - day, now + 365 * day] {
        let store = ca.authority.store();
        let refused = store.activate_authority(Role::Intermediate, forced, By::Operator, wrong);
        let refused = refused.await.unwrap();
        assert!(matches!(refused, Err(Refused::NotValid(_))), "{refused:?}");
    }
    ca.activate(Role::Intermediate).await.unwrap();
}

#[tokio::test]
async fn a_wrong_passphrase_seals_no_key_not_even_one_for_a_request() {
    let mut ca = Ca::new(KeyProtection::Encrypted(passphrase()));
    fs::remove_file(ca.dir.join("root.key")).unwrap();
    ca.options.passphrase = Passphrase::new(b"wrong".to_vec()).ok();
    let refused = ca.prepare(Role::Intermediate).await;
    assert!(matches!(refused, Err(PrepareError::Key(_))), "{refused:?}");
    assert!(
        ca.authority
            .store()
            .generations()
            .await
            .unwrap()
            .0
            .is_empty()
    );
    ca.options.passphrase = Some(passphrase());
    ca.prepare(Role::Intermediate).await.unwrap();
}

#[tokio::test]
async fn who_never_said_which_bundle_it_has_is_counted_beside_the_live() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    ca.edit("INSERT INTO certificate (serial, spiffe_id, not_before, not_after, renew_at, der, audit_seq) VALUES ('a', 'spiffe://demo.test/a', 0, 99999999999, 0, x'00', 1)");
    ca.edit(
        "INSERT INTO descent (serial, lineage, predecessor, key_hash) VALUES ('a', 'l', NULL, 'k')",
    );
    let counted = || {
        let database = ca.options.database_in(&ca.dir);
        let status = rotation::status(&ca.dir, &database, SystemTime::now()).unwrap();
        let said = status.to_string().contains("1 more that enrolled");
        assert_eq!(said, status.silent == 1, "{status}");
        (status.live_sidecars, status.silent)
    };
    assert_eq!(counted(), (0, 1));
    ca.prepare(Role::Root).await.unwrap();
    let silent = ca.activate(Role::Root).await.unwrap().silent;
    assert_eq!(silent.count, 1);
    assert_eq!(silent.first, ["spiffe://demo.test/a"]);
    let store = ca.authority.store();
    store.acknowledge("a".to_owned(), 1).await.unwrap();
    assert_eq!(counted(), (1, 0));
}
