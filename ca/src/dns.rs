//! Host names in certificates, for clients that go by those: beside the SPIFFE ID, never in its place.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Host names of one certificate.
pub const MAX_DNS_NAMES: usize = 16;
/// RFC 1035 section 2.3.4, written out.
const MAX_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// A host name in the only form that certificates get (RFC 1123 section 2.1): lower-case letters, digits and hyphens, labels
/// of 1 to 63 bytes, two of them at least, 253 bytes in all, no final dot and no wildcard. The last label is no number, so that no
/// IP address is one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsName(String);

impl DnsName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DnsName {
    type Err = ParseDnsNameError;

    fn from_str(text: &str) -> Result<Self, ParseDnsNameError> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for DnsName {
    type Error = ParseDnsNameError;

    fn try_from(text: String) -> Result<Self, ParseDnsNameError> {
        // One label alone means another host on each network.
        let (_, last) = text.rsplit_once('.').ok_or(ParseDnsNameError)?;
        let is_number = last.bytes().all(|byte| byte.is_ascii_digit());
        if text.len() > MAX_BYTES || is_number || !text.split('.').all(is_label) {
            return Err(ParseDnsNameError);
        }
        Ok(Self(text))
    }
}

impl From<DnsName> for String {
    fn from(name: DnsName) -> Self {
        name.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_label(label: &str) -> bool {
    let is_known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=MAX_LABEL_BYTES).contains(&label.len())
        && label.bytes().all(is_known)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Not such a name. Says nothing of what was found, which may be long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a host name of lower-case letters, digits and hyphens, such as orders.shop.example, without wildcard"
)]
pub struct ParseDnsNameError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_has_one_form_and_is_no_address_and_no_wildcard() {
        let long = |labels: usize| vec!["a".repeat(49); labels].join(".");
        for (text, good) in [
            ("orders.shop.svc.cluster.local", true),
            ("3com.example", true),
            ("xn--bcher-kva.example", true),
            ("a-b.c", true),
            (&format!("{}.example", "a".repeat(63)), true),
            (&long(5), true),
            ("", false),
            ("orders", false),
            ("localhost", false),
            (".", false),
            ("orders.", false),
            (".orders", false),
            ("a..b", false),
            ("*.example", false),
            ("Orders.example", false),
            ("or_ders.example", false),
            ("b\u{fc}cher.example", false),
            ("-a.example", false),
            ("a-.example", false),
            ("127.0.0.1", false),
            ("a.1", false),
            ("7", false),
            ("::1", false),
            ("a b", false),
            ("a\0.example", false),
            ("a.example\n", false),
            ("spiffe://demo.test/a", false),
            (&format!("{}.example", "a".repeat(64)), false),
            (&format!("{}.aaaa", long(5)), false),
        ] {
            assert_eq!(text.parse::<DnsName>().is_ok(), good, "{text:?}");
        }
    }
}
