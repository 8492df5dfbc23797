//! Private keys of the CA at rest: a text file with a readable header and the encrypted PKCS#8 key.
//!
//! ```text
//! tipstaff-key: 1
//! label: intermediate
//! kdf: argon2id m=65536 t=3 p=4
//! salt: <base64>
//! cipher: aes-256-gcm-siv
//! nonce: <base64>
//!
//! <base64>
//! ```
//!
//! Every byte before the empty line is authenticated with the key, so neither the parameters nor the label (which
//! keeps one key file from standing in for another) can be changed. The nonce-misuse resistant cipher forgives a
//! restored virtual machine that repeats its random numbers. A plaintext key is a plain PKCS#8 PEM file instead, and a
//! key in a token a file that says where it is (see [`crate::signer::pkcs11`]).

use crate::config::{KeyProtection, OpenOptions};
use crate::signer::pkcs11::{self, Reference, Token};
use crate::signer::{CaKey, SignError};
use aes_gcm_siv::aead::{Aead, KeyInit, Payload};
use aes_gcm_siv::{Aes256GcmSiv, Nonce};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use identity::TrustDomain;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::PrivatePkcs8KeyDer;
use std::fmt::Write;
use zeroize::Zeroizing;

#[cfg(test)]
mod tests;

/// The second recommendation of RFC 9106 section 4: 64 MiB, 3 passes, 4 lanes.
const ARGON2: Cost = Cost {
    memory_kib: 64 * 1024,
    passes: 3,
    lanes: 4,
};
/// What a file may ask for. Its parameters are read before they can be authenticated, so they must not be able to
/// take the machine's memory or an hour.
const ARGON2_LIMIT: Cost = Cost {
    memory_kib: 1024 * 1024,
    passes: 16,
    lanes: 16,
};
const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const NO_REFERENCE: KeyError = KeyError::Format {
    expected: "\"held-in\", \"object\" and \"public-key\"",
};

/// The passphrase that the CA's keys are encrypted with. Never printed; zeroed on drop.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Takes the bytes as they are, except for one final line ending (a file made with an editor has one).
    ///
    /// # Errors
    /// When nothing is left.
    pub fn new(bytes: impl Into<Zeroizing<Vec<u8>>>) -> Result<Self, EmptyPassphrase> {
        let mut bytes = bytes.into();
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        if bytes.is_empty() {
            return Err(EmptyPassphrase);
        }
        Ok(Self(bytes))
    }

    pub(crate) fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(<secret>)")
    }
}

/// An empty passphrase protects nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a passphrase, found an empty one")]
pub struct EmptyPassphrase;

/// Why a key file could not be used. Contains nothing of the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("expected {expected} in the key file")]
    Format { expected: &'static str },
    #[error("expected version 1 of the key file format, found {found:?}")]
    Version { found: String },
    #[error("expected the key {expected:?}, found {found:?}")]
    Label {
        expected: &'static str,
        found: String,
    },
    #[error("the key is encrypted: expected a passphrase, found none")]
    PassphraseMissing,
    #[error("the passphrase does not open the key: it is wrong, or the key file was changed")]
    WrongPassphrase,
    #[error(
        "a plaintext key file must be readable by its owner alone: expected mode 0600, found {mode:04o}"
    )]
    Exposed { mode: u32 },
    #[error("expected a P-256 private key in PKCS#8")]
    NotP256,
    #[error("the key is in a PKCS#11 token: expected its module, label and PIN, found none")]
    TokenMissing,
    #[error("the key does not sign")]
    Sign(#[from] SignError),
}

/// Makes the key that `label` names, for a CA of `trust_domain`, where `protection` wants it. Gives what to store.
pub(crate) fn generate(
    label: &str,
    trust_domain: &TrustDomain,
    protection: &KeyProtection,
) -> Result<(CaKey, Zeroizing<String>), KeyError> {
    if let KeyProtection::Token(token) = protection {
        // For whoever looks into the token; what finds the key again is its ID.
        let name = format!("tipstaff {label} {trust_domain}");
        let (key, reference) = pkcs11::generate(token, &name)?;
        return Ok((key, Zeroizing::new(reference.to_text(label))));
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|_| KeyError::NotP256)?;
    let text = seal(label, &key, protection);
    Ok((CaKey::in_memory(key), text))
}

/// The key that is in `token` under `name` already, to be what `label` names. Gives what to store.
pub(crate) fn adopt(
    label: &str,
    token: &Token,
    name: &str,
) -> Result<(CaKey, Zeroizing<String>), KeyError> {
    let (key, reference) = pkcs11::existing(token, name)?;
    Ok((key, Zeroizing::new(reference.to_text(label))))
}

/// The key in the file `text`, which must be the one that `label` names, ready to sign. `mode` is the file's.
pub(crate) fn open(
    label: &'static str,
    text: &str,
    mode: u32,
    options: &OpenOptions,
) -> Result<CaKey, KeyError> {
    let Some(reference) = reference(label, text)? else {
        return unseal(label, text, mode, options.passphrase.as_ref()).map(CaKey::in_memory);
    };
    let token = options.token.as_ref().ok_or(KeyError::TokenMissing)?;
    Ok(pkcs11::open(token, reference)?)
}

/// The same, but of a key in a token only what the file says: whoever looks often must not log in each time, as after a
/// few wrong PINs the token locks. That key does not sign.
pub(crate) fn recognise(
    label: &'static str,
    text: &str,
    mode: u32,
    options: &OpenOptions,
) -> Result<CaKey, KeyError> {
    match reference(label, text)? {
        None => open(label, text, mode, options),
        Some(_) if options.token.is_none() => Err(KeyError::TokenMissing),
        Some(reference) => Ok(CaKey::unopened(reference.public)),
    }
}

/// Takes the key that `text` is the only trace of out of its token. Nothing else of one is anywhere.
pub(crate) fn destroy(text: &str, options: &OpenOptions) -> Result<(), KeyError> {
    let Some((_, lines)) = held_in_token(text) else {
        return Ok(());
    };
    let token = options.token.as_ref().ok_or(KeyError::TokenMissing)?;
    let reference = Reference::parse(lines).ok_or(NO_REFERENCE)?;
    Ok(pkcs11::destroy(token, &reference)?)
}

/// The `CKA_ID` of the key that `text` names, in hexadecimal; `None` when it is in no token.
pub(crate) fn object_in_token(text: &str) -> Option<String> {
    let (_, lines) = held_in_token(text)?;
    Some(Reference::parse(lines)?.object())
}

/// Whether whoever reads `text` has the key.
pub(crate) fn is_plaintext(text: &str) -> bool {
    text.contains(PEM_BEGIN)
}

/// How another key is to rest beside the one in the file `text`.
pub(crate) fn protection_of(text: &str, options: &OpenOptions) -> Result<KeyProtection, KeyError> {
    if held_in_token(text).is_some() {
        let token = options.token.clone().ok_or(KeyError::TokenMissing)?;
        return Ok(KeyProtection::Token(token));
    }
    if is_plaintext(text) {
        return Ok(KeyProtection::InsecurePlaintext);
    }
    let passphrase = options.passphrase.clone();
    let passphrase = passphrase.ok_or(KeyError::PassphraseMissing)?;
    Ok(KeyProtection::Encrypted(passphrase))
}

/// Which key of a token `text` says that `label` names; `None` when it holds the key itself.
fn reference(label: &'static str, text: &str) -> Result<Option<Reference>, KeyError> {
    let Some((found, lines)) = held_in_token(text) else {
        return Ok(None);
    };
    if found != label {
        return Err(KeyError::Label {
            expected: label,
            found: found.to_owned(),
        });
    }
    Reference::parse(lines).ok_or(NO_REFERENCE).map(Some)
}

/// The label and the lines after it, when `text` says that the key is in a token.
fn held_in_token(text: &str) -> Option<(&str, impl Iterator<Item = &str>)> {
    let (label, rest) = text
        .strip_prefix("tipstaff-key: 1\nlabel: ")?
        .split_once('\n')?;
    rest.starts_with(pkcs11::HELD_IN)
        .then(|| (label, rest.lines()))
}

/// The text to store for `key`, whose `label` says which key of the CA it is.
fn seal(label: &str, key: &KeyPair, protection: &KeyProtection) -> Zeroizing<String> {
    let KeyProtection::Encrypted(passphrase) = protection else {
        return Zeroizing::new(key.serialize_pem());
    };
    let salt: [u8; SALT_BYTES] = random();
    let nonce: [u8; NONCE_BYTES] = random();
    let header = format!(
        "tipstaff-key: 1\nlabel: {label}\nkdf: argon2id {ARGON2}\nsalt: {}\ncipher: aes-256-gcm-siv\nnonce: {}\n",
        STANDARD.encode(salt),
        STANDARD.encode(nonce),
    );
    let payload = Payload {
        msg: key.serialized_der(),
        aad: header.as_bytes(),
    };
    let sealed = cipher(passphrase, &salt, ARGON2)
        .encrypt(&Nonce::from(nonce), payload)
        .expect("a P-256 key is far below the cipher's size limit");
    let mut text = Zeroizing::new(header);
    let _ = writeln!(text, "\n{}", STANDARD.encode(sealed));
    text
}

/// The key in `text`, which must be the one that `label` names. `mode` is the file's.
fn unseal(
    label: &'static str,
    text: &str,
    mode: u32,
    passphrase: Option<&Passphrase>,
) -> Result<KeyPair, KeyError> {
    if text.starts_with(PEM_BEGIN) {
        // An encrypted key may be shared with a group, as some volume drivers insist on; a plaintext one may not.
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed {
                mode: mode & 0o7777,
            });
        }
        return KeyPair::from_pkcs8_pem_and_sign_algo(text, &PKCS_ECDSA_P256_SHA256)
            .map_err(|_| KeyError::NotP256);
    }
    let sealed = Sealed::parse(text)?;
    if sealed.label != label {
        return Err(KeyError::Label {
            expected: label,
            found: sealed.label.to_owned(),
        });
    }
    let payload = Payload {
        msg: &sealed.ciphertext,
        aad: sealed.header.as_bytes(),
    };
    let passphrase = passphrase.ok_or(KeyError::PassphraseMissing)?;
    let der = cipher(passphrase, &sealed.salt, sealed.cost)
        .decrypt(&Nonce::from(sealed.nonce), payload)
        .map(Zeroizing::new)
        .map_err(|_| KeyError::WrongPassphrase)?;
    let der = PrivatePkcs8KeyDer::from(der.as_slice());
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
        .map_err(|_| KeyError::NotP256)
}

/// The same key under the same passphrase, in other words.
#[cfg(test)]
pub(crate) fn resealed(text: &str, passphrase: &Passphrase) -> String {
    let key = unseal("intermediate", text, 0o600, Some(passphrase)).unwrap();
    let protection = KeyProtection::Encrypted(passphrase.clone());
    seal("intermediate", &key, &protection).to_string()
}

/// An encrypted key file, read but not yet authenticated.
struct Sealed<'a> {
    header: &'a str,
    label: &'a str,
    cost: Cost,
    salt: [u8; SALT_BYTES],
    nonce: [u8; NONCE_BYTES],
    ciphertext: Vec<u8>,
}

impl<'a> Sealed<'a> {
    fn parse(text: &'a str) -> Result<Self, KeyError> {
        let expected = |expected| KeyError::Format { expected };
        let end = text
            .find("\n\n")
            .ok_or(expected("a header, an empty line and a key"))?;
        let (header, body) = (&text[..=end], &text[end + 2..]);
        let mut lines = header.lines();
        let mut field = |name: &str| {
            let line = lines.next()?.strip_prefix(name)?;
            line.strip_prefix(": ")
        };
        let version = field("tipstaff-key").ok_or(expected("\"tipstaff-key\" or a PEM key"))?;
        if version != "1" {
            return Err(KeyError::Version {
                found: version.to_owned(),
            });
        }
        let sealed = Self {
            header,
            label: field("label").ok_or(expected("\"label\""))?,
            cost: field("kdf")
                .and_then(|kdf| Cost::parse(kdf.strip_prefix("argon2id ")?))
                .ok_or(expected("\"kdf\": argon2id with parameters within limits"))?,
            salt: field("salt")
                .and_then(decode)
                .ok_or(expected("\"salt\": 16 bytes of base64"))?,
            nonce: field("cipher")
                .filter(|cipher| *cipher == "aes-256-gcm-siv")
                .and_then(|_| field("nonce"))
                .and_then(decode)
                .ok_or(expected("\"cipher\": aes-256-gcm-siv and its \"nonce\""))?,
            ciphertext: STANDARD
                .decode(body.trim_end())
                .map_err(|_| expected("the encrypted key in base64"))?,
        };
        if lines.next().is_some() {
            return Err(expected("no further header line"));
        }
        Ok(sealed)
    }
}

/// argon2id's parameters.
#[derive(Clone, Copy)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Cost {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let mut number = |name: &str, limit: u32| {
            let value = parts.next()?.strip_prefix(name)?.parse().ok()?;
            (1..=limit).contains(&value).then_some(value)
        };
        let cost = Self {
            memory_kib: number("m=", ARGON2_LIMIT.memory_kib)?,
            passes: number("t=", ARGON2_LIMIT.passes)?,
            lanes: number("p=", ARGON2_LIMIT.lanes)?,
        };
        // RFC 9106 section 3.1: at least 8 KiB per lane.
        (parts.next().is_none() && cost.memory_kib >= 8 * cost.lanes).then_some(cost)
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            memory_kib,
            passes,
            lanes,
        } = self;
        write!(f, "m={memory_kib} t={passes} p={lanes}")
    }
}

fn cipher(passphrase: &Passphrase, salt: &[u8], cost: Cost) -> Aes256GcmSiv {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
        .expect("the cost was checked against argon2's limits");
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(&passphrase.0, salt, key.as_mut_slice())
        .expect("salt and output have lengths that argon2 takes");
    Aes256GcmSiv::new_from_slice(key.as_slice()).expect("the key has 32 bytes")
}

fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("AWS-LC's generator aborts rather than fail");
    bytes
}
