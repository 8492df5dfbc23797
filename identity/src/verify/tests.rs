use super::*;
use crate::mint::{self, Minted, NOW, WORKLOAD};
use crate::vectors;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};

/// Verifies `leaf` under `intermediate` under a fresh root of the bundle.
fn verify(leaf: CertificateParams, intermediate: CertificateParams) -> Result<Leaf, VerifyError> {
    let root = Minted::root();
    let intermediate = root.sign(intermediate);
    let chain = [intermediate.sign(leaf).der, intermediate.der];
    root.bundle().verify(&chain, Usage::Server, mint::now())
}

fn leaf(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = mint::leaf(WORKLOAD);
    change(&mut params);
    params
}

fn signer(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = mint::signer("intermediate");
    change(&mut params);
    params
}

fn reason(found: &Result<Leaf, VerifyError>) -> &'static str {
    found
        .as_ref()
        .map_or_else(VerifyError::reason, |_| "accepted")
}

#[test]
fn a_good_chain_is_accepted_for_both_uses() {
    let root = Minted::root();
    let intermediate = root.sign(mint::signer("intermediate"));
    let chain = [
        intermediate.sign(mint::leaf(WORKLOAD)).der,
        intermediate.der,
    ];
    for usage in [Usage::Client, Usage::Server] {
        let leaf = root.bundle().verify(&chain, usage, mint::now()).unwrap();
        assert_eq!(leaf.id.as_str(), WORKLOAD);
    }
}

#[test]
fn every_spire_profile_rule_gives_its_expectation() {
    // SPIRE applies these rules before it issues, when what has expired need not be looked at. Path validation refuses it.
    const DEVIATIONS: [(&str, &str); 2] = [
        ("TestValidateX509CA", "already expired"),
        ("TestValidateX509SVID", "already expired"),
    ];
    let mut failures = Vec::new();
    for case in vectors::read("svid_profile_rules_spire") {
        let (test, name) = (vectors::text(&case, "test"), vectors::text(&case, "case"));
        let variants = match test {
            "TestValidateX509SVID" => svid_rule(name)
                .into_iter()
                .map(|params| (params, signer(|_| ())))
                .collect::<Vec<_>>(),
            "TestValidateX509CA" => ca_rule(name)
                .into_iter()
                .map(|params| (leaf(|_| ()), params))
                .collect(),
            // Rules for tokens: there are none in this mesh.
            "TestValidateWorkloadJWTSVID" | "TestValidateWorkloadWITSVID" => continue,
            other => panic!("expected a known group of rules, found {other:?}"),
        };
        let deviates = DEVIATIONS.contains(&(test, name));
        let expected = (vectors::text(&case, "expect") == "accept") != deviates;
        for (leaf, intermediate) in variants {
            let found = verify(leaf, intermediate);
            if found.is_ok() != expected {
                failures.push(format!("{test}, {name}: {found:?}"));
            }
        }
    }
    vectors::report(&failures);
}

/// The leaves that a rule of SPIRE's describes.
fn svid_rule(name: &str) -> Vec<CertificateParams> {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth, TimeStamping};
    use KeyUsagePurpose::{
        ContentCommitment, CrlSign, DataEncipherment, DecipherOnly, DigitalSignature, EncipherOnly,
        KeyAgreement, KeyCertSign, KeyEncipherment,
    };
    let used_for = |usage| leaf(|params| params.extended_key_usages = vec![usage]);
    let with_usage = |usage| leaf(|params| params.key_usages.push(usage));
    let named = |uris: &[&str]| {
        leaf(|params| params.subject_alt_names = uris.iter().map(|text| mint::uri(text)).collect())
    };
    match name {
        "bare minimum" => vec![leaf(|_| ())],
        "basic constraints not valid" => vec![leaf(|params| params.is_ca = IsCa::NoCa)],
        "cA constraint is set" => vec![leaf(|params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        })],
        "digitalSignature key usage is not set" => vec![
            leaf(|params| params.key_usages = vec![KeyAgreement]),
            leaf(|params| params.key_usages.retain(|usage| *usage != DigitalSignature)),
        ],
        "keyEncipherment key usage" => vec![with_usage(KeyEncipherment)],
        "keyAgreement key usage" => vec![with_usage(KeyAgreement)],
        "key usage other than digitalSignature, keyEncipherment, and keyAgreement" => [
            ContentCommitment,
            DataEncipherment,
            KeyCertSign,
            CrlSign,
            EncipherOnly,
            DecipherOnly,
        ]
        .map(with_usage)
        .into(),
        "no extended key usage" => vec![leaf(|params| params.extended_key_usages.clear())],
        "missing serverAuth" => vec![used_for(ClientAuth)],
        "missing clientAuth" => vec![used_for(ServerAuth)],
        "missing both serverAuth clientAuth" => vec![used_for(TimeStamping)],
        "no URI SAN" => vec![named(&[])],
        "more than one URI SAN" => vec![named(&[WORKLOAD, "spiffe://domain.test"])],
        "unexpected URI SAN" => vec![named(&["spiffe://domain.test"])],
        "not yet valid" => vec![leaf(|params| {
            params.not_before = NOW + time::Duration::SECOND
        })],
        "already expired" => vec![leaf(|params| {
            params.not_after = NOW - time::Duration::SECOND
        })],
        other => panic!("expected a known rule, found {other:?}"),
    }
}

/// The signing certificates that a rule of SPIRE's describes.
fn ca_rule(name: &str) -> Vec<CertificateParams> {
    use KeyUsagePurpose::{
        ContentCommitment, CrlSign, DataEncipherment, DecipherOnly, DigitalSignature, EncipherOnly,
        KeyAgreement, KeyEncipherment,
    };
    let with_usage = |usage| signer(|params| params.key_usages.push(usage));
    let named = |uris: &[&str]| {
        signer(|params| params.subject_alt_names = uris.iter().map(|t| mint::uri(t)).collect())
    };
    let server = "spiffe://domain.test/spire/server";
    match name {
        "bare minimum" => vec![signer(|_| ())],
        "basic constraints not valid" => vec![signer(|params| params.is_ca = IsCa::NoCa)],
        "cA constraint is not set" => vec![signer(|params| params.is_ca = IsCa::ExplicitNoCa)],
        "certSign key usage is not set" => vec![
            signer(|params| params.key_usages.clear()),
            signer(|params| params.key_usages = vec![CrlSign]),
        ],
        "cRLSign key usage" => vec![with_usage(CrlSign)],
        "digitalSignature key usage" => vec![with_usage(DigitalSignature)],
        "key usage other than certSign, cRLSign, and digitalSignature" => [
            ContentCommitment,
            KeyEncipherment,
            DataEncipherment,
            KeyAgreement,
            EncipherOnly,
            DecipherOnly,
        ]
        .map(with_usage)
        .into(),
        "no URI SAN" => vec![named(&[])],
        "more than one URI SAN" => vec![named(&["spiffe://domain.test", server])],
        "unexpected URI SAN" => vec![named(&[server])],
        "not yet valid" => vec![signer(|params| {
            params.not_before = NOW + time::Duration::SECOND
        })],
        "already expired" => vec![signer(|params| {
            params.not_after = NOW - time::Duration::SECOND
        })],
        other => panic!("expected a known rule, found {other:?}"),
    }
}

#[test]
fn each_refusal_has_its_reason() {
    let second = time::Duration::SECOND;
    let good = || signer(|_| ());
    let cases = [
        ("expired", leaf(|p| p.not_after = NOW - second), good()),
        (
            "not_yet_valid",
            leaf(|p| p.not_before = NOW + second),
            good(),
        ),
        (
            "expired",
            leaf(|_| ()),
            signer(|p| p.not_after = NOW - second),
        ),
        (
            "no_spiffe_id",
            leaf(|p| p.subject_alt_names.clear()),
            good(),
        ),
        (
            "several_spiffe_ids",
            leaf(|p| p.subject_alt_names.push(mint::uri(WORKLOAD))),
            good(),
        ),
        ("leaf_profile", signer(|_| ()), good()),
        (
            "leaf_profile",
            leaf(|p| p.extended_key_usages.truncate(1)),
            good(),
        ),
        (
            "foreign_trust_domain",
            mint::leaf("spiffe://other.test/workload"),
            good(),
        ),
        (
            "foreign_trust_domain",
            leaf(|_| ()),
            signer(|p| p.subject_alt_names = vec![mint::uri("spiffe://other.test")]),
        ),
        (
            "signer_profile",
            leaf(|_| ()),
            signer(|p| p.subject_alt_names = vec![mint::uri(WORKLOAD)]),
        ),
        (
            "wrong_usage",
            leaf(|_| ()),
            signer(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
        ),
    ];
    for (expected, leaf, intermediate) in cases {
        let found = verify(leaf, intermediate);
        assert_eq!(reason(&found), expected, "{found:?}");
    }
}

#[test]
fn an_issuer_for_one_use_is_refused_for_the_other() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let cases = [
        (ServerAuth, Usage::Server, "accepted"),
        (ServerAuth, Usage::Client, "wrong_usage"),
        (ClientAuth, Usage::Client, "accepted"),
        (ClientAuth, Usage::Server, "wrong_usage"),
    ];
    for (purpose, usage, expected) in cases {
        let root = Minted::root();
        let issuer = root.sign(signer(|p| p.extended_key_usages = vec![purpose.clone()]));
        let chain = [issuer.sign(mint::leaf(WORKLOAD)).der, issuer.der];
        let found = root.bundle().verify(&chain, usage, mint::now());
        assert_eq!(reason(&found), expected, "{purpose:?} {usage:?}");
    }
}

#[test]
fn a_workload_cannot_sign_for_another() {
    let root = Minted::root();
    let workload = root.sign(mint::leaf(WORKLOAD));
    let forged = workload.sign(mint::leaf("spiffe://domain.test/other"));
    let found = root
        .bundle()
        .verify(&[forged.der, workload.der], Usage::Client, mint::now());
    assert_eq!(reason(&found), "signer_profile");
}

#[test]
fn another_ca_is_unknown_and_its_namesake_is_not_believed() {
    let root = Minted::root();
    let chain = [Minted::root().sign(mint::leaf(WORKLOAD)).der];
    let found = root.bundle().verify(&chain, Usage::Client, mint::now());
    assert_eq!(reason(&found), "bad_signature");
    let other = Minted::self_signed(mint::signer("another root"));
    let chain = [other.sign(mint::leaf(WORKLOAD)).der, other.der];
    let found = root.bundle().verify(&chain, Usage::Client, mint::now());
    assert_eq!(reason(&found), "unknown_issuer");
}

#[test]
fn a_self_signed_leaf_is_refused() {
    let chain = [Minted::self_signed(mint::leaf(WORKLOAD)).der];
    let found = Minted::root()
        .bundle()
        .verify(&chain, Usage::Client, mint::now());
    assert_eq!(reason(&found), "unknown_issuer");
}

#[test]
fn a_path_longer_than_the_issuer_allows_is_refused() {
    let root = Minted::root();
    let first = root.sign(signer(|p| {
        p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))
    }));
    let second = first.sign(mint::signer("second"));
    let chain = [second.sign(mint::leaf(WORKLOAD)).der, second.der, first.der];
    let found = root.bundle().verify(&chain, Usage::Client, mint::now());
    assert_eq!(reason(&found), "invalid_path");
}

#[test]
fn an_empty_chain_and_a_clock_before_1970_are_refused() {
    let root = Minted::root();
    let found = root.bundle().verify(&[], Usage::Client, mint::now());
    assert_eq!(reason(&found), "no_certificate");
    let chain = [root.sign(mint::leaf(WORKLOAD)).der];
    let unset = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    let found = root.bundle().verify(&chain, Usage::Client, unset);
    assert_eq!(reason(&found), "no_authority");
}

#[test]
fn an_expiry_is_told_in_rfc_3339() {
    let expired = leaf(|params| params.not_after = NOW - time::Duration::MINUTE);
    assert_eq!(
        verify(expired, signer(|_| ())).unwrap_err().to_string(),
        "expected a certificate that is valid at 2026-06-01T12:00:00Z, \
         found one that ended at 2026-06-01T11:59:00Z"
    );
}

#[test]
fn a_clock_past_the_year_9999_is_told_in_seconds() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
    let not_after = SystemTime::UNIX_EPOCH;
    assert_eq!(
        VerifyError::Expired {
            now,
            not_after,
            clock: None
        }
        .to_string(),
        "expected a certificate that is valid at 1099511627776, \
         found one that ended at 1970-01-01T00:00:00Z"
    );
}
