//! A SPIFFE ID or trust domain is accepted exactly when the specification lets one write it, and nothing is repaired.
#![no_main]

use fuzz::assert_one_line;
use identity::{SpiffeId, TrustDomain};

fuzz::target!(|text: &str| {
    spiffe_id(text);
    trust_domain(text);
});

fn spiffe_id(text: &str) {
    let read = SpiffeId::parse(text);
    assert_eq!(read.is_ok(), may_be_written(text), "{read:?}");
    let id = match read {
        Ok(id) => id,
        Err(error) => return assert_one_line(&error),
    };
    assert_eq!(id.as_str(), text);
    let trust_domain = id.trust_domain();
    assert_eq!(format!("spiffe://{trust_domain}{}", id.path()), text);
    assert!(id.is_member_of(&trust_domain));
    assert_eq!(TrustDomain::parse(text), Ok(trust_domain.clone()));
    assert_eq!(TrustDomain::parse(trust_domain.as_str()), Ok(trust_domain));
    assert_eq!(id.namespace().is_some(), id.service_account().is_some());
    if let (Some(namespace), Some(account)) = (id.namespace(), id.service_account()) {
        assert_eq!(format!("/ns/{namespace}/sa/{account}"), id.path());
    }
    let is_reserved = id.path().split('/').nth(1) == Some("tipstaff");
    assert_eq!(id.is_reserved(), is_reserved);
}

fn trust_domain(text: &str) {
    match TrustDomain::parse(text) {
        Ok(trust_domain) => {
            assert!(is_trust_domain(trust_domain.as_str()));
            assert!(SpiffeId::ca_server(&trust_domain).is_reserved());
            let server = SpiffeId::ca_server(&trust_domain);
            assert_eq!(SpiffeId::parse(server.as_str()), Ok(server));
        }
        Err(error) => {
            assert!(!is_trust_domain(text));
            assert_one_line(&error);
        }
    }
}

/// SPIFFE-ID section 2, written once more and in another way.
fn may_be_written(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("spiffe://") else {
        return false;
    };
    let mut parts = rest.split('/');
    text.len() <= 2048 && parts.next().is_some_and(is_trust_domain) && parts.all(is_segment)
}

fn is_trust_domain(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || is_digit_or_mark(byte);
    (1..=255).contains(&name.len()) && name.bytes().all(is_allowed)
}

fn is_segment(segment: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphabetic() || is_digit_or_mark(byte);
    !["", ".", ".."].contains(&segment) && segment.bytes().all(is_allowed)
}

fn is_digit_or_mark(byte: u8) -> bool {
    byte.is_ascii_digit() || b".-_".contains(&byte)
}
