use super::*;
use crate::mint::{self, Minted, NOW, WORKLOAD};
use rcgen::CertificateParams;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// One authority, and chains of a leaf and an intermediate under it.
struct Mesh {
    root: Minted,
    bundle: Arc<TrustBundle>,
    chains: VerifiedChains,
}

impl Mesh {
    fn new() -> Self {
        Self::under(mint::signer("root"))
    }

    fn under(root: CertificateParams) -> Self {
        let root = Minted::self_signed(root);
        Self {
            bundle: Arc::new(root.bundle()),
            root,
            chains: VerifiedChains::default(),
        }
    }

    fn chain(&self, intermediate: CertificateParams) -> [CertificateDer<'static>; 2] {
        let intermediate = self.root.sign(intermediate);
        let leaf = intermediate.sign(mint::leaf(WORKLOAD));
        [leaf.der, intermediate.der]
    }

    fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: SystemTime,
    ) -> Result<Arc<VerifiedChain>, VerifyError> {
        let found = self.chains.verify(&self.bundle, chain, usage, now);
        let fresh = TrustBundle::verify_chain(&self.bundle, chain, usage, now);
        assert_eq!(found.as_deref(), fresh.as_ref(), "the memory answers alike");
        found
    }

    fn remembered(&self) -> usize {
        self.chains.known.lock().unwrap().chains.len()
    }
}

fn soon_over(mut params: CertificateParams) -> CertificateParams {
    params.not_after = NOW + MINUTE;
    params
}

#[test]
fn a_chain_that_comes_again_is_the_same_leaf_and_is_not_verified_again() {
    let mesh = Mesh::new();
    let chain = mesh.chain(mint::signer("intermediate"));
    let first = mesh.verify(&chain, Usage::Client, mint::now()).unwrap();
    let second = mesh.verify(&chain, Usage::Client, mint::now()).unwrap();
    assert_eq!(first.leaf.id.as_str(), WORKLOAD);
    assert!(Arc::ptr_eq(&first, &second));
}

#[test]
fn the_end_of_any_certificate_of_the_path_ends_the_memory() {
    let ending = soon_over;
    let with_leaf = |mesh: &Mesh| {
        let leaf = mesh.root.sign(ending(mint::leaf(WORKLOAD)));
        vec![leaf.der]
    };
    let with_intermediate = |mesh: &Mesh| mesh.chain(ending(mint::signer("intermediate"))).to_vec();
    let with_root = |mesh: &Mesh| mesh.chain(mint::signer("intermediate")).to_vec();
    let mesh = Mesh::new();
    let cases = [
        (with_leaf(&mesh), mesh),
        {
            let mesh = Mesh::new();
            (with_intermediate(&mesh), mesh)
        },
        {
            let mesh = Mesh::under(ending(mint::signer("root")));
            (with_root(&mesh), mesh)
        },
    ];
    for (chain, mesh) in cases {
        assert!(mesh.verify(&chain, Usage::Client, mint::now()).is_ok());
        let last = mint::now() + MINUTE;
        assert!(mesh.verify(&chain, Usage::Client, last).is_ok());
        let after = last + Duration::from_secs(1);
        assert!(mesh.verify(&chain, Usage::Client, after).is_err());
        // A clock that is set back finds everything as it was.
        assert!(mesh.verify(&chain, Usage::Client, mint::now()).is_ok());
        let before = mint::now() - 61 * MINUTE;
        assert!(mesh.verify(&chain, Usage::Client, before).is_err());
    }
}

#[test]
fn another_bundle_begins_anew_even_with_the_same_sequence() {
    let mut mesh = Mesh::new();
    let chain = mesh.chain(mint::signer("intermediate"));
    assert!(mesh.verify(&chain, Usage::Client, mint::now()).is_ok());
    mesh.bundle = Arc::new(Minted::root().bundle());
    let found = mesh.verify(&chain, Usage::Client, mint::now()).unwrap_err();
    assert_eq!(found.reason(), "bad_signature");
    mesh.bundle = Arc::new(mesh.root.bundle());
    assert!(mesh.verify(&chain, Usage::Client, mint::now()).is_ok());
}

#[test]
fn one_use_says_nothing_about_the_other() {
    let mesh = Mesh::new();
    let mut clients_only = mint::signer("intermediate");
    clients_only.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let chain = mesh.chain(clients_only);
    assert!(mesh.verify(&chain, Usage::Client, mint::now()).is_ok());
    let found = mesh.verify(&chain, Usage::Server, mint::now()).unwrap_err();
    assert_eq!(found.reason(), "wrong_usage");
}

#[test]
fn a_known_chain_that_is_changed_is_verified_as_it_is() {
    let mesh = Mesh::new();
    let [leaf, intermediate] = mesh.chain(mint::signer("intermediate"));
    let known = [leaf.clone(), intermediate.clone()];
    assert!(mesh.verify(&known, Usage::Client, mint::now()).is_ok());

    for place in 0..leaf.len() {
        let mut changed = leaf.to_vec();
        changed[place] ^= 1;
        let changed = [CertificateDer::from(changed), intermediate.clone()];
        let found = mesh.verify(&changed, Usage::Client, mint::now());
        assert!(found.is_err(), "octet {place}");
    }
    for other in [
        vec![],
        vec![leaf.clone()],
        vec![intermediate.clone(), leaf.clone()],
        vec![CertificateDer::from([&*leaf, &*intermediate].concat())],
        // The same octets, cut one later.
        vec![
            CertificateDer::from([&*leaf, &intermediate[..1]].concat()),
            CertificateDer::from(intermediate[1..].to_vec()),
        ],
    ] {
        assert!(mesh.verify(&other, Usage::Client, mint::now()).is_err());
    }
    assert_eq!(mesh.remembered(), 1);
}

#[test]
fn what_is_remembered_is_bounded_and_what_is_refused_is_not_remembered() {
    let mesh = Mesh::new();
    let stranger = Minted::root();
    let leaf = mint::leaf(WORKLOAD);
    for _ in 0..3 {
        let refused = [stranger.sign(leaf.clone()).der];
        assert!(mesh.verify(&refused, Usage::Client, mint::now()).is_err());
    }
    assert_eq!(mesh.remembered(), 0);

    let intermediate = mesh.root.sign(mint::signer("intermediate"));
    for _ in 0..=MOST_CHAINS {
        let chain = [
            intermediate.sign(leaf.clone()).der,
            intermediate.der.clone(),
        ];
        let found = mesh
            .chains
            .verify(&mesh.bundle, &chain, Usage::Client, mint::now());
        assert!(found.is_ok());
    }
    assert_eq!(mesh.remembered(), 1);
}
