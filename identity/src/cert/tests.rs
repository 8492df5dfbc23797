use super::*;
use crate::mint::{self, Minted, WORKLOAD};
use proptest::prelude::*;
use rcgen::{CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rcgen::{SanType, SerialNumber};
use std::time::Duration;

/// The leaf profile's verdict on a good leaf with one thing changed.
fn changed(change: impl FnOnce(&mut CertificateParams)) -> Result<Leaf, CertError> {
    let mut params = mint::leaf(WORKLOAD);
    change(&mut params);
    Leaf::parse(&Minted::root().sign(params).der)
}

/// A whole extension in DER, for what rcgen has no way to write.
fn extension(oid: &[u64], critical: bool, der: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, der.to_vec());
    extension.set_criticality(critical);
    extension
}

#[test]
fn a_good_leaf_says_who_and_for_how_long() {
    let leaf = changed(|params| {
        params.serial_number = Some(SerialNumber::from_slice(&[0xab, 0x00, 0x1f]));
    })
    .unwrap();
    assert_eq!(leaf.id.as_str(), WORKLOAD);
    assert_eq!(leaf.serial, "ab001f");
    assert_eq!(
        leaf.not_after.duration_since(leaf.not_before).unwrap(),
        Duration::from_secs(7200)
    );
}

#[test]
fn names_of_another_kind_may_stand_beside_the_uri() {
    let leaf = changed(|params| {
        let dns = SanType::DnsName("orders.shop".try_into().unwrap());
        params.subject_alt_names.insert(0, dns);
    });
    assert_eq!(leaf.unwrap().id.as_str(), WORKLOAD);
}

#[test]
fn a_leaf_without_a_uri_is_refused() {
    let dns = SanType::DnsName("orders.shop".try_into().unwrap());
    let names = [vec![], vec![dns]];
    for names in names {
        let found = changed(|params| params.subject_alt_names = names);
        assert_eq!(found, Err(CertError::NoUri));
    }
}

#[test]
fn a_leaf_with_two_uris_is_refused() {
    let found = changed(|params| params.subject_alt_names.push(mint::uri("https://a.test/b")));
    assert_eq!(found, Err(CertError::SeveralUris { count: 2 }));
}

#[test]
fn a_uri_that_is_no_spiffe_id_is_refused() {
    let found = changed(|params| params.subject_alt_names = vec![mint::uri("https://a.test/b")]);
    assert_eq!(found, Err(CertError::NotSpiffeId(ParseIdError::Scheme)));
}

#[test]
fn a_second_extension_with_names_is_refused() {
    let names = b"\x30\x12\x86\x10spiffe://a.test/x";
    let found = changed(|params| {
        params.custom_extensions = vec![extension(&[2, 5, 29, 17], false, names)];
    });
    let name = "subjectAltName";
    assert_eq!(found, Err(CertError::Extension { name }));
}

#[test]
fn a_name_that_cannot_be_read_refuses_the_certificate() {
    let names = b"\x30\x08\x86\x06spif\xff\xff";
    let found = changed(|params| {
        params.subject_alt_names.clear();
        params.custom_extensions = vec![extension(&[2, 5, 29, 17], false, names)];
    });
    let name = "subjectAltName";
    assert_eq!(found, Err(CertError::Extension { name }));
}

#[test]
fn names_after_the_names_refuse_the_certificate() {
    let names = b"\x30\x12\x86\x10spiffe://a.test/x\x30\x12\x86\x10spiffe://a.test/y";
    let found = changed(|params| {
        params.subject_alt_names.clear();
        params.custom_extensions = vec![extension(&[2, 5, 29, 17], false, names)];
    });
    let name = "subjectAltName";
    assert_eq!(found, Err(CertError::Extension { name }));
}

#[test]
fn an_extension_that_cannot_be_read_is_not_an_absent_one() {
    let cases: [(&[u64], &str); 3] = [
        (&[2, 5, 29, 15], "keyUsage"),
        (&[2, 5, 29, 19], "basicConstraints"),
        (&[2, 5, 29, 37], "extKeyUsage"),
    ];
    for (oid, name) in cases {
        let found = changed(|params| {
            match name {
                "keyUsage" => params.key_usages.clear(),
                "basicConstraints" => params.is_ca = IsCa::NoCa,
                _ => params.extended_key_usages.clear(),
            }
            params.custom_extensions = vec![extension(oid, true, b"\x0c\x01x")];
        });
        assert_eq!(found, Err(CertError::Extension { name }));
    }
}

#[test]
fn an_unknown_critical_extension_is_refused_and_another_is_not() {
    let private_oid = [1, 3, 6, 1, 4, 1, 55555, 1];
    let found = changed(|params| {
        params.custom_extensions = vec![extension(&private_oid, true, b"\x05\x00")];
    });
    let oid = "1.3.6.1.4.1.55555.1".to_owned();
    assert_eq!(found, Err(CertError::UnknownCriticalExtension { oid }));
    let found = changed(|params| {
        params.custom_extensions = vec![extension(&private_oid, false, b"\x05\x00")];
    });
    assert!(found.is_ok(), "{found:?}");
}

#[test]
fn a_leaf_that_may_sign_certificates_is_refused() {
    let found = changed(|params| params.is_ca = mint::signer("ca").is_ca);
    assert_eq!(found, Err(CertError::LeafIsCa));
    let found = changed(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign));
    assert_eq!(found, Err(CertError::LeafSignsCertificates));
    let found = changed(|params| params.key_usages.push(KeyUsagePurpose::CrlSign));
    assert_eq!(found, Err(CertError::LeafSignsRevocationLists));
}

#[test]
fn extended_key_usage_has_both_purposes_or_is_absent() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};
    let missing = |missing| Err(CertError::ExtendedKeyUsage { missing });
    let cases = [
        (vec![ClientAuth], missing("serverAuth")),
        (vec![ServerAuth], missing("clientAuth")),
        (vec![Any], missing("serverAuth")),
        (vec![], Ok(())),
        (vec![ServerAuth, ClientAuth, Any], Ok(())),
    ];
    for (usages, expected) in cases {
        let found = changed(|params| params.extended_key_usages = usages.clone());
        assert_eq!(found.map(|_| ()), expected, "{usages:?}");
    }
}

#[test]
fn a_serial_that_is_too_long_is_refused() {
    let found = changed(|params| params.serial_number = Some(vec![0x7f; 21].into()));
    assert_eq!(found, Err(CertError::Serial { octets: 21 }));
}

#[test]
fn bytes_after_the_certificate_are_refused() {
    let mut der = Minted::root().sign(mint::leaf(WORKLOAD)).der.to_vec();
    der.push(0);
    assert_eq!(Leaf::parse(&der), Err(CertError::TrailingData { bytes: 1 }));
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_no_certificate(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Leaf::parse(&bytes).is_err());
        prop_assert!(Signer::parse_intermediate(&bytes).is_err());
    }

    /// Whatever a peer changes in a certificate, the identity read from it stands in its bytes.
    #[test]
    fn a_damaged_certificate_never_yields_an_identity_it_does_not_contain(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let whole = Minted::root().sign(mint::leaf(WORKLOAD)).der.to_vec();
        prop_assert!(Leaf::parse(&whole[..cut.index(whole.len())]).is_err());
        let mut damaged = whole;
        for (place, value) in damage {
            let place = place.index(damaged.len());
            damaged[place] = value;
        }
        if let Ok(leaf) = Leaf::parse(&damaged) {
            let id = leaf.id.as_str().as_bytes();
            prop_assert!(damaged.windows(id.len()).any(|window| window == id));
        }
    }
}
