//! A bundle as others read it (SPIFFE Trust Domain and Bundle section 4).

use super::TrustBundle;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use std::time::Duration;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

impl TrustBundle {
    /// As a SPIFFE bundle document. `refresh_hint` says how often a reader should ask again.
    pub fn to_spiffe_json(&self, refresh_hint: Duration) -> String {
        let x509 = self.authorities().iter().filter_map(to_jwk);
        let keys: Vec<_> = x509.chain(self.jwt_keys().to_jwk_values()).collect();
        serde_json::json!({
            "keys": keys,
            "spiffe_sequence": self.sequence(),
            "spiffe_refresh_hint": refresh_hint.as_secs(),
        })
        .to_string()
    }
}

/// An authority as an `x509-svid` entry of a bundle document (SPIFFE X509-SVID section 6.2). `None` for a key that is neither
/// EC nor RSA.
fn to_jwk(authority: &CertificateDer<'_>) -> Option<serde_json::Value> {
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (_, certificate) = X509Certificate::from_der(authority).ok()?;
    let mut jwk = match certificate.public_key().parsed().ok()? {
        PublicKey::EC(point) => {
            let (form, coordinates) = point.data().split_first()?;
            let curve = match coordinates.len() {
                64 => "P-256",
                96 => "P-384",
                _ => return None,
            };
            let (x, y) = coordinates.split_at(coordinates.len() / 2);
            (*form == 4).then(
                || serde_json::json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y)}),
            )?
        }
        PublicKey::RSA(key) => {
            let modulus = key.modulus.strip_prefix(&[0]).unwrap_or(key.modulus);
            serde_json::json!({"kty": "RSA", "n": text(modulus), "e": text(key.exponent)})
        }
        _ => return None,
    };
    jwk["use"] = "x509-svid".into();
    jwk["x5c"] = vec![STANDARD.encode(authority)].into();
    Some(jwk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwt::{JwtKey, JwtKeys};
    use crate::mint::Minted;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

    #[test]
    fn what_is_written_is_read_again_and_has_whole_keys_in_it() {
        let mut keys = JwtKeys::default();
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        keys.insert(JwtKey::p256("a", pair.public_key().as_ref()).unwrap());
        let bundle = Minted::root().bundle().with_jwt_keys(keys);
        let json = bundle.to_spiffe_json(Duration::from_secs(300));
        let domain = bundle.trust_domain().clone();
        let read = TrustBundle::from_spiffe_json(domain, json.as_bytes()).unwrap();
        assert_eq!(read, bundle);

        let document: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(document["spiffe_refresh_hint"], 300);
        let authority = &document["keys"][0];
        assert_eq!(
            (&authority["use"], &authority["kty"]),
            (&"x509-svid".into(), &"EC".into())
        );
        // go-jose reads the key itself, too.
        for coordinate in ["x", "y"] {
            let text = authority[coordinate].as_str().unwrap();
            assert_eq!(URL_SAFE_NO_PAD.decode(text).unwrap().len(), 32);
        }
    }
}
