use super::*;
use rcgen::PublicKeyData;

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.as_bytes().to_vec()).unwrap()
}

fn sealed() -> (KeyPair, Zeroizing<String>) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let text = seal("root", &key, &KeyProtection::Encrypted(passphrase("right")));
    (key, text)
}

fn open(text: &str, passphrase: Option<&Passphrase>) -> Result<Vec<u8>, KeyError> {
    unseal("root", text, 0o600, passphrase).map(|key| key.serialize_der())
}

#[test]
fn the_right_passphrase_opens_the_key_and_no_other() {
    let (key, text) = sealed();
    assert_eq!(
        open(&text, Some(&passphrase("right\n"))),
        Ok(key.serialize_der())
    );
    assert_eq!(
        open(&text, Some(&passphrase("wrong"))),
        Err(KeyError::WrongPassphrase)
    );
    assert_eq!(open(&text, None), Err(KeyError::PassphraseMissing));
    assert!(!text.contains("PRIVATE KEY"));
}

#[test]
fn every_changed_line_is_noticed() {
    let (_, text) = sealed();
    let right = passphrase("right");
    for (from, to) in [
        ("tipstaff-key: 1", "tipstaff-key: 2"),
        ("label: root", "label: intermediate"),
        ("m=65536 t=3 p=4", "m=65536 t=3 p=3"),
        ("m=65536 t=3 p=4", "m=4294967295 t=3 p=4"),
        ("m=65536 t=3 p=4", "m=8 t=3 p=4"),
        ("argon2id", "argon2i"),
        ("salt: ", "salt: A"),
        ("aes-256-gcm-siv", "aes-128-gcm-siv"),
        ("\n\n", "\nnote: x\n\n"),
        ("\n\n", "\n"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, *text, "{from}");
        assert!(open(&changed, Some(&right)).is_err(), "{from} -> {to}");
    }
    // One bit of salt, nonce and ciphertext each.
    for part in text
        .match_indices("==\n")
        .map(|(at, _)| at - 2)
        .chain([text.len() - 8])
    {
        let mut bytes = text.as_bytes().to_vec();
        bytes[part] = if bytes[part] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert_eq!(
            open(&changed, Some(&right)),
            Err(KeyError::WrongPassphrase),
            "{part}"
        );
    }
}

#[test]
fn a_plaintext_key_opens_only_when_nobody_else_can_read_it() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let text = seal("root", &key, &KeyProtection::InsecurePlaintext);
    assert_eq!(open(&text, None), Ok(key.serialize_der()));
    assert_eq!(
        unseal("root", &text, 0o100_640, None).err(),
        Some(KeyError::Exposed { mode: 0o640 })
    );
}

#[test]
fn an_empty_passphrase_is_refused() {
    for empty in ["", "\n", "\r\n"] {
        assert!(Passphrase::new(empty.as_bytes().to_vec()).is_err());
    }
    assert_eq!(format!("{:?}", passphrase("right")), "Passphrase(<secret>)");
}

#[test]
fn a_key_file_that_points_into_a_token_needs_the_token_and_its_own_label() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let spki = STANDARD.encode(key.subject_public_key_info());
    let text =
        format!("tipstaff-key: 1\nlabel: root\nheld-in: pkcs11\nobject: 4f\npublic-key: {spki}\n");
    let open = |label, text: &str| {
        super::open(label, text, 0o600, &OpenOptions::default()).map(|key| format!("{key:?}"))
    };
    assert_eq!(open("root", &text), Err(KeyError::TokenMissing));
    let found = "root".to_owned();
    let expected = "intermediate";
    assert_eq!(
        open("intermediate", &text),
        Err(KeyError::Label { expected, found })
    );
    let cut = text.replace("object: 4f\n", "");
    assert!(matches!(open("root", &cut), Err(KeyError::Format { .. })));
}
