//! Certificates as a peer sends them: what is read is read the same again, and a chain speaks for its leaf alone.
#![no_main]

use fuzz::assert_one_line;
use identity::{Leaf, TrustBundle, TrustDomain, Usage};

fuzz::target!(|der: &[u8]| {
    leaf(der);
    chain(der);
});

fn leaf(der: &[u8]) {
    let leaf = match Leaf::parse(der) {
        Ok(leaf) => leaf,
        Err(error) => return assert_one_line(&error),
    };
    assert!(!leaf.id.path().is_empty());
    let is_hex = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
    assert!((2..=40).contains(&leaf.serial.len()) && leaf.serial.len() % 2 == 0);
    assert!(leaf.serial.bytes().all(is_hex), "{}", leaf.serial);
    // One certificate, all of it, and nothing behind it.
    assert!(Leaf::parse(&[der, b"\0"].concat()).is_err());
    assert!(Leaf::parse(&der[..der.len() - 1]).is_err());
    assert_eq!(Leaf::parse(der), Ok(leaf));
}

/// `der` holds a chain, leaf first; the last certificate serves as the authority.
fn chain(der: &[u8]) {
    let foreign = TrustDomain::parse("other.test").expect("a trust domain");
    let (trust_domain, now) = match Leaf::parse(first_of(der)) {
        Ok(leaf) => (leaf.id.trust_domain(), leaf.not_before),
        Err(_) => return,
    };
    let Ok(sent) = TrustBundle::from_der(trust_domain.clone(), der, 0) else {
        return;
    };
    let certificates = sent.authorities();
    let (authority, chain) = certificates.split_last().expect("a bundle is never empty");
    let bundle = |trust_domain| {
        TrustBundle::new(trust_domain, vec![authority.clone()], 0).expect("it was read before")
    };
    for usage in [Usage::Client, Usage::Server] {
        match bundle(trust_domain.clone()).verify(chain, usage, now) {
            Ok(verified) => {
                assert_eq!(Leaf::parse(&chain[0]), Ok(verified.clone()));
                assert!(verified.id.is_member_of(&trust_domain));
                assert!(verified.not_before <= now && now <= verified.not_after);
                // The same chain says nothing in another trust domain, and an authority is no leaf.
                assert!(
                    trust_domain == foreign
                        || bundle(foreign.clone()).verify(chain, usage, now).is_err()
                );
                assert!(
                    sent.verify(&certificates[certificates.len() - 1..], usage, now)
                        .is_err()
                );
            }
            Err(error) => assert_one_line(&error),
        }
    }
}

/// The first DER value of several (X.690, sections 8.1.2 and 8.1.3, in the length forms that certificates have).
fn first_of(der: &[u8]) -> &[u8] {
    let length = match der {
        [_, length @ 0..=0x7F, ..] => 2 + usize::from(*length),
        [_, 0x81, length, ..] => 3 + usize::from(*length),
        [_, 0x82, high, low, ..] => 4 + usize::from(u16::from_be_bytes([*high, *low])),
        _ => der.len(),
    };
    der.get(..length).unwrap_or(der)
}
