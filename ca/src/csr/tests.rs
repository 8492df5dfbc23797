use super::*;
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;

fn csr(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["attacker.example".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn takes_the_key_and_nothing_else() {
    let key = KeyPair::generate().unwrap();
    let public = PublicKey::from_csr(&csr(&key)).unwrap();
    assert_eq!(public.der_bytes(), key.der_bytes());
    assert_eq!(public.to_spki(), key.subject_public_key_info());
    assert_eq!(PublicKey::from_spki(&public.to_spki()), Ok(public));
}

#[test]
fn other_keys_are_refused_by_name() {
    for (algorithm, found) in [
        (&rcgen::PKCS_ECDSA_P384_SHA384, "curve 1.3.132.0.34"),
        (&rcgen::PKCS_ED25519, "key algorithm 1.3.101.112"),
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let expected = Err(CsrError::WrongKey {
            found: found.to_owned(),
        });
        assert_eq!(PublicKey::from_csr(&csr(&key)), expected);
        assert_eq!(
            PublicKey::from_spki(&key.subject_public_key_info()),
            expected
        );
    }
}

#[test]
fn a_point_off_the_curve_is_refused() {
    let mut spki = KeyPair::generate().unwrap().subject_public_key_info();
    *spki.last_mut().unwrap() ^= 1;
    let error = PublicKey::from_spki(&spki).unwrap_err();
    assert!(error.to_string().contains("not on the curve"), "{error}");
}

#[test]
fn a_request_signed_by_another_key_is_refused() {
    let mut der = csr(&KeyPair::generate().unwrap());
    let other = csr(&KeyPair::generate().unwrap());
    // Both requests differ only in key and signature; the key of one in the other is a wrong signature.
    let point = |der: &[u8]| {
        der.windows(4)
            .position(|w| w == [0x03, 0x42, 0x00, 0x04])
            .unwrap()
    };
    let (to, from) = (point(&der), point(&other));
    der[to..to + 68].copy_from_slice(&other[from..from + 68]);
    assert_eq!(PublicKey::from_csr(&der), Err(CsrError::WrongSignature));
}

#[test]
fn a_signature_with_another_hash_is_refused() {
    let mut der = csr(&KeyPair::generate().unwrap());
    let oid = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    let at = der.windows(8).rposition(|w| w == oid).unwrap();
    der[at + 7] = 0x03;
    assert_eq!(
        PublicKey::from_csr(&der),
        Err(CsrError::WrongSignatureAlgorithm {
            found: "1.2.840.10045.4.3.3".to_owned()
        })
    );
}

#[test]
fn bytes_that_are_no_request_are_refused() {
    let good = csr(&KeyPair::generate().unwrap());
    for end in 0..good.len() {
        let error = PublicKey::from_csr(&good[..end]).unwrap_err();
        assert!(
            matches!(error, CsrError::Malformed { .. }),
            "{end}: {error}"
        );
    }
    let mut longer = good;
    longer.push(0);
    assert_eq!(
        PublicKey::from_csr(&longer).unwrap_err().to_string(),
        "expected exactly one DER PKCS#10 request, found 1 bytes after it"
    );
    longer.resize(MAX_CSR_BYTES + 1, 0);
    assert!(matches!(
        PublicKey::from_csr(&longer),
        Err(CsrError::TooLarge { .. })
    ));
}

/// The signature covers what matters; some bits of the DER around it say nothing.
#[test]
fn a_changed_bit_never_brings_another_key() {
    let key = KeyPair::generate().unwrap();
    let good = csr(&key);
    let signed = PublicKey::from_csr(&good).unwrap();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut der = good.clone();
            der[at] ^= 1 << bit;
            if let Ok(key) = PublicKey::from_csr(&der) {
                assert_eq!(key, signed, "bit {bit} of byte {at}");
            }
        }
    }
}

/// Requests of other projects. Those the file accepts with another key than P-256 are refused here, for that reason.
#[test]
fn requests_of_other_projects() {
    let text = include_str!("../../../tests/vectors/spiffe/csr.json");
    let file: Value = serde_json::from_str(text).unwrap();
    for vector in file["vectors"].as_array().unwrap() {
        let (name, pem) = (&vector["name"], vector["pem"].as_str().unwrap_or_default());
        let der = der_of(pem);
        let accepted = vector["expect"] == "accept";
        match PublicKey::from_csr(&der) {
            Ok(_) => assert!(accepted, "{name} was accepted"),
            Err(CsrError::WrongKey { .. }) => {}
            Err(error) => assert!(!accepted, "{name}: {error}"),
        }
    }
}

fn der_of(pem: &str) -> Vec<u8> {
    use base64::Engine;
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    base64::engine::general_purpose::STANDARD
        .decode(base64)
        .unwrap()
}
