use super::*;
use crate::mint::{self, Minted, NOW, WORKLOAD};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, GeneralSubtree, NameConstraints};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// An authority, and an intermediate under it that issues.
struct Mesh {
    root: Minted,
    bundle: Arc<TrustBundle>,
    intermediate: Minted,
    issuer: VerifiedIssuer,
}

impl Mesh {
    fn new() -> Self {
        Self::of(mint::signer("root"), mint::signer("intermediate"))
    }

    fn of(root: CertificateParams, intermediate: CertificateParams) -> Self {
        let root = Minted::self_signed(root);
        Self {
            bundle: Arc::new(root.bundle()),
            intermediate: root.sign(intermediate),
            root,
            issuer: VerifiedIssuer::default(),
        }
    }

    fn chain(&self, leaf: CertificateParams) -> [CertificateDer<'static>; 2] {
        let leaf = self.intermediate.sign(leaf).der;
        [leaf, self.intermediate.der.clone()]
    }

    fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: SystemTime,
    ) -> Result<Leaf, VerifyError> {
        let found = self.issuer.verify(&self.bundle, chain, usage, now);
        let fresh = self.bundle.verify(chain, usage, now);
        assert_eq!(found, fresh, "the memory answers alike");
        found
    }

    /// The name of a refusal of a new leaf of the intermediate's.
    fn reason(&self, usage: Usage, now: SystemTime) -> &'static str {
        let found = self.verify(&self.chain(mint::leaf(WORKLOAD)), usage, now);
        found.map_or_else(|error| error.reason(), |_| "accepted")
    }

    fn remembers(&self) -> bool {
        self.issuer.known.lock().unwrap().is_some()
    }
}

fn soon_over(mut params: CertificateParams) -> CertificateParams {
    params.not_after = NOW + MINUTE;
    params
}

#[test]
fn an_issuer_is_verified_for_its_first_leaf_and_each_leaf_for_itself() {
    let mesh = Mesh::new();
    assert!(!mesh.remembers());
    assert_eq!(mesh.reason(Usage::Client, mint::now()), "accepted");
    assert!(mesh.remembers());
    let first = Arc::clone(mesh.issuer.known.lock().unwrap().as_ref().unwrap());
    assert_eq!(mesh.reason(Usage::Client, mint::now()), "accepted");
    let second = Arc::clone(mesh.issuer.known.lock().unwrap().as_ref().unwrap());
    assert!(Arc::ptr_eq(&first, &second), "not verified again");
}

#[test]
fn a_leaf_of_a_known_issuer_is_held_to_every_rule_for_leaves() {
    let mesh = Mesh::new();
    assert_eq!(mesh.reason(Usage::Client, mint::now()), "accepted");
    let changed = |change: fn(&mut CertificateParams)| {
        let mut leaf = mint::leaf(WORKLOAD);
        change(&mut leaf);
        leaf
    };
    for (leaf, expected) in [
        (changed(|leaf| leaf.not_after = NOW - MINUTE), "expired"),
        (
            changed(|leaf| leaf.not_before = NOW + MINUTE),
            "not_yet_valid",
        ),
        (
            mint::leaf("spiffe://other.test/workload"),
            "foreign_trust_domain",
        ),
        (
            changed(|leaf| leaf.subject_alt_names.clear()),
            "no_spiffe_id",
        ),
        (mint::signer("intermediate's"), "leaf_profile"),
    ] {
        let found = mesh.verify(&mesh.chain(leaf), Usage::Client, mint::now());
        assert_eq!(found.unwrap_err().reason(), expected);
    }
}

#[test]
fn a_leaf_that_is_changed_or_another_issuers_is_refused() {
    let mesh = Mesh::new();
    let [leaf, intermediate] = mesh.chain(mint::leaf(WORKLOAD));
    let known = [leaf.clone(), intermediate.clone()];
    assert!(mesh.verify(&known, Usage::Client, mint::now()).is_ok());
    for place in 0..leaf.len() {
        let mut changed = leaf.to_vec();
        changed[place] ^= 1;
        let changed = [CertificateDer::from(changed), intermediate.clone()];
        let found = mesh.verify(&changed, Usage::Client, mint::now());
        assert!(found.is_err(), "octet {place}");
    }
    // A namesake under another root, beside the certificate that is known.
    let namesake = Minted::root().sign(mint::signer("intermediate"));
    let forged = namesake.sign(mint::leaf(WORKLOAD)).der;
    for issuer in [&intermediate, &namesake.der] {
        let chain = [forged.clone(), issuer.clone()];
        let found = mesh.verify(&chain, Usage::Client, mint::now());
        assert_eq!(found.unwrap_err().reason(), "bad_signature");
    }
}

#[test]
fn the_end_of_an_issuer_or_of_an_authority_ends_the_memory() {
    let (root, intermediate) = (mint::signer("root"), mint::signer("intermediate"));
    for mesh in [
        Mesh::of(soon_over(root.clone()), intermediate.clone()),
        Mesh::of(root, soon_over(intermediate)),
    ] {
        assert_eq!(mesh.reason(Usage::Client, mint::now()), "accepted");
        let last = mint::now() + MINUTE;
        assert_eq!(mesh.reason(Usage::Client, last), "accepted");
        let after = last + Duration::from_secs(1);
        assert_ne!(mesh.reason(Usage::Client, after), "accepted");
    }
}

#[test]
fn another_bundle_begins_anew_even_with_the_same_sequence() {
    let mut mesh = Mesh::new();
    assert_eq!(mesh.reason(Usage::Client, mint::now()), "accepted");
    mesh.bundle = Arc::new(Minted::root().bundle());
    assert_eq!(mesh.reason(Usage::Client, mint::now()), "bad_signature");
    mesh.bundle = Arc::new(mesh.root.bundle());
    assert_eq!(mesh.reason(Usage::Client, mint::now()), "accepted");
}

#[test]
fn one_use_says_nothing_about_the_other() {
    let mut clients_only = mint::signer("intermediate");
    clients_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let mesh = Mesh::of(mint::signer("root"), clients_only);
    assert_eq!(mesh.reason(Usage::Client, mint::now()), "accepted");
    assert_eq!(mesh.reason(Usage::Server, mint::now()), "wrong_usage");
}

#[test]
fn names_that_an_authority_or_the_issuer_excludes_are_refused_after_others_were_not() {
    let constrained = |mut signer: CertificateParams| {
        signer.name_constraints = Some(NameConstraints {
            permitted_subtrees: Vec::new(),
            excluded_subtrees: vec![GeneralSubtree::DnsName("secret.test".to_owned())],
        });
        signer
    };
    let (root, intermediate) = (mint::signer("root"), mint::signer("intermediate"));
    for mesh in [
        Mesh::of(constrained(root.clone()), intermediate.clone()),
        Mesh::of(root, constrained(intermediate)),
    ] {
        assert_eq!(mesh.reason(Usage::Client, mint::now()), "accepted");
        let mut leaf = mint::leaf(WORKLOAD);
        let name = "db.secret.test".try_into().unwrap();
        leaf.subject_alt_names.push(rcgen::SanType::DnsName(name));
        let found = mesh.verify(&mesh.chain(leaf), Usage::Client, mint::now());
        assert_eq!(found.unwrap_err().reason(), "invalid_path");
    }
}

/// What is sent beside a good leaf is no issuer for that.
#[test]
fn an_intermediate_that_the_path_did_not_go_through_is_not_remembered() {
    let mesh = Mesh::new();
    let strange = Minted::root().sign(mint::signer("strange"));
    let own = mesh.root.sign(mint::leaf(WORKLOAD)).der;
    let beside = [own, strange.der.clone()];
    assert!(mesh.verify(&beside, Usage::Client, mint::now()).is_ok());
    let forged = [strange.sign(mint::leaf(WORKLOAD)).der, strange.der.clone()];
    let found = mesh.verify(&forged, Usage::Client, mint::now());
    assert_eq!(found.unwrap_err().reason(), "bad_signature");
}

#[test]
fn chains_of_another_length_are_verified_in_full() {
    let mesh = Mesh::new();
    let [leaf, intermediate] = mesh.chain(mint::leaf(WORKLOAD));
    assert!(mesh.verify(&[], Usage::Client, mint::now()).is_err());
    assert!(
        mesh.verify(std::slice::from_ref(&leaf), Usage::Client, mint::now())
            .is_err()
    );
    let more = [leaf, intermediate, mesh.root.der.clone()];
    assert!(mesh.verify(&more, Usage::Client, mint::now()).is_ok());
    assert!(!mesh.remembers());
}
