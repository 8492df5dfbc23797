//! How fields of the contract's messages are written in JSON (proto3's mapping): the build script names these where the type
//! of a field asks for it.
//!
//! Stricter than that mapping where it lets a value have several forms: one alphabet, padding, no numbers as text. Bytes may
//! be PEM as well, which is how files of keys and requests usually come.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serializer};

const EXPECTED: &str =
    "base64 of DER with padding, or one PEM block with a certificate, a request or a public key";

/// Padded base64. What is read may be one PEM block.
pub(crate) mod octets {
    use super::*;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        // The value stays out of the words: it may be a key that has got into the wrong place.
        read(&text)
            .ok_or_else(|| D::Error::invalid_value(Unexpected::Other("other text"), &EXPECTED))
    }
}

/// A list of the same.
pub(crate) mod octets_list {
    use super::*;
    use serde::Serialize;

    pub(crate) fn serialize<S: Serializer>(all: &[Vec<u8>], to: S) -> Result<S::Ok, S::Error> {
        let all: Vec<_> = all.iter().map(|octets| STANDARD.encode(octets)).collect();
        all.serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<Vec<u8>>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let all: Option<_> = texts.iter().map(|text| read(text)).collect();
        all.ok_or_else(|| D::Error::invalid_value(Unexpected::Other("other text"), &EXPECTED))
    }
}

/// 64-bit numbers, which are text: many readers of JSON have none that large.
pub(crate) mod decimal {
    use super::*;
    use std::fmt::Display;
    use std::str::FromStr;

    pub(crate) fn serialize<S: Serializer>(
        number: &impl Display,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: FromStr + Display>(
        from: D,
    ) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        let number = text.parse().ok();
        number
            .filter(|number: &T| number.to_string() == text)
            .ok_or_else(|| D::Error::invalid_value(Unexpected::Other("other text"), &"a number"))
    }
}

fn read(text: &str) -> Option<Vec<u8>> {
    if !text.starts_with("-----BEGIN ") {
        return STANDARD.decode(text).ok();
    }
    // The reader of PEM passes over what is outside of blocks, and over a last one that is cut off.
    let (_, end) = text.split_once("-----END ")?;
    let (_, after) = end.split_once("-----")?;
    if !matches!(after, "" | "\n" | "\r\n") {
        return None;
    }
    match <(SectionKind, Vec<u8>)>::from_pem_slice(text.as_bytes()).ok()? {
        (SectionKind::Certificate | SectionKind::Csr | SectionKind::PublicKey, der) => Some(der),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_text_in_one_form() {
        let read = |json: &str| {
            let mut from = serde_json::Deserializer::from_str(json);
            decimal::deserialize::<_, i64>(&mut from).ok()
        };
        assert_eq!(read("\"1790000000\""), Some(1_790_000_000));
        assert_eq!(read("\"-1\""), Some(-1));
        for other in [
            "1790000000",
            "\"+1\"",
            "\"01\"",
            "\" 1\"",
            "\"1.0\"",
            "\"\"",
            "\"9223372036854775808\"",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn bytes_are_padded_base64_or_one_public_pem_block() {
        let pem = |label: &str| format!("-----BEGIN {label}-----\nMAA=\n-----END {label}-----\n");
        for (text, expected) in [
            ("MAA=", Some(&[0x30, 0][..])),
            ("", Some(&[])),
            (&pem("CERTIFICATE REQUEST"), Some(&[0x30, 0])),
            (&pem("PUBLIC KEY"), Some(&[0x30, 0])),
            (&pem("CERTIFICATE"), Some(&[0x30, 0])),
            ("MAA", None),
            ("MAA=\n", None),
            ("MA A=", None),
            ("_-8=", None),
            ("MAB=", None),
            (&pem("PRIVATE KEY"), None),
            (&pem("EC PRIVATE KEY"), None),
            (&pem("CERTIFICATE").repeat(2), None),
            (pem("PUBLIC KEY").trim_end(), Some(&[0x30, 0])),
            (&pem("PUBLIC KEY").replace('\n', "\r\n"), Some(&[0x30, 0])),
            (&(pem("PUBLIC KEY") + "and more"), None),
            (&(pem("PUBLIC KEY") + "\n"), None),
            (
                &(pem("PUBLIC KEY") + "-----BEGIN PRIVATE KEY-----\nMAA="),
                None,
            ),
            (
                &pem("PUBLIC KEY").replace("KEY-----\n", "KEY----- x\n"),
                None,
            ),
            ("-----BEGIN CERTIFICATE-----\nMAA=\n", None),
            ("-----BEGIN ", None),
        ] {
            assert_eq!(read(text).as_deref(), expected, "{text:?}");
        }
    }
}
