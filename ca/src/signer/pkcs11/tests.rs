use super::*;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};

fn public_key() -> PublicKey {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    PublicKey::from_spki(&key.subject_public_key_info()).unwrap()
}

#[test]
fn a_key_of_which_the_token_does_not_say_that_it_stays_inside_is_not_adopted() {
    let id = || Attribute::Id(vec![1]);
    assert!(stays_inside(&[Attribute::Extractable(false), id()]));
    assert!(!stays_inside(&[Attribute::Extractable(true), id()]));
    assert!(!stays_inside(&[id()]));
}

#[test]
fn a_raw_signature_becomes_asn1() {
    let mut raw = [0; 64];
    (raw[31], raw[32], raw[63]) = (0x05, 0x80, 0x01);
    let encoded = asn1(&raw).unwrap();
    let mut expected = vec![0x30, 38, 0x02, 1, 0x05, 0x02, 33, 0x00, 0x80];
    expected.extend([0; 30]);
    expected.push(0x01);
    assert_eq!(encoded, expected);
    assert_eq!(asn1(&[0; 64]).unwrap(), [0x30, 6, 2, 1, 0, 2, 1, 0]);
    for length in [0, 63, 65] {
        assert_eq!(asn1(&vec![1; length]), None, "{length} bytes");
    }
}

#[test]
fn a_reference_survives_its_file() {
    let reference = Reference {
        id: vec![0x0f, 0xa1, 0],
        public: public_key(),
    };
    let text = reference.to_text("intermediate");
    assert_eq!(Reference::parse(text.lines().skip(2)), Some(reference));
}

#[test]
fn a_reference_with_anything_amiss_is_none() {
    let reference = Reference {
        id: vec![0x4f],
        public: public_key(),
    };
    let text = reference.to_text("intermediate");
    for (from, to) in [
        ("held-in: pkcs11\n", ""),
        ("held-in: pkcs11\n", "held-in: elsewhere\n"),
        ("object: 4f", "object: 4"),
        ("object: 4f", "object: "),
        ("object: 4f", "object: +f"),
        ("object: 4f", "object: 4\u{e9}"),
        ("public-key: M", "public-key: N"),
        ("public-key: ", "public-key: AAAA"),
        ("=\n", "=\nmodule: /tmp/evil.so\n"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        assert_eq!(Reference::parse(changed.lines().skip(2)), None, "{changed}");
    }
}

#[test]
fn a_module_that_is_none_is_named() {
    let token = Token {
        module: "/nonexistent/module.so".into(),
        label: "hsm".to_owned(),
        pin: Passphrase::new(b"1234".to_vec()).unwrap(),
    };
    let error = Device::load(&token).err().unwrap();
    let text = error.to_string();
    assert!(
        text.contains("cannot load /nonexistent/module.so"),
        "{text}"
    );
    assert!(!text.contains("1234"), "{text}");
}
