//! Keys as the store sees them: 128 bits under a key of this process, instead of strings.

use std::hash::{BuildHasher, Hasher as _, RandomState};
use std::net::IpAddr;

use siphasher::sip128::{Hasher128, SipHasher13};

use super::{Key, LimitSpec, Subject};

/// Stands for a key. Two keys share one with a chance of 2^-128 per pair, which nobody can raise without
/// knowing the hasher's key.
pub(super) type Digest = [u64; 2];

/// SipHash-1-3 with 128 bits of output, keyed at random.
#[derive(Debug)]
pub(super) struct Hasher {
    key: [u64; 2],
}

impl Hasher {
    pub(super) fn random() -> Self {
        // The standard library's way to the operating system's randomness.
        let random = || RandomState::new().build_hasher().finish();
        Self {
            key: [random(), random()],
        }
    }

    /// The digest of what `spec` is keyed by. The parts cannot run into each other: each starts with whether it
    /// is there and how long it is.
    pub(super) fn digest(&self, spec: &LimitSpec, subject: &Subject<'_>) -> Digest {
        let mut hasher = SipHasher13::new_with_keys(self.key[0], self.key[1]);
        for key in spec.key() {
            match key {
                Key::Identity => match subject.identity {
                    Some(identity) => part(&mut hasher, identity.as_bytes()),
                    // Marked as none first: no address is ever taken for a name.
                    None => {
                        absent(&mut hasher);
                        address(&mut hasher, spec, subject);
                    }
                },
                Key::Namespace => text(&mut hasher, subject.namespace),
                Key::Route => text(&mut hasher, Some(subject.route)),
                Key::Method => text(&mut hasher, Some(subject.method)),
                Key::GrpcMethod => text(&mut hasher, subject.grpc_method),
                Key::ClientIp => address(&mut hasher, spec, subject),
                Key::Header(name) => {
                    subject
                        .headers
                        .values(name, &mut |value| part(&mut hasher, value));
                    // Ends the list of values.
                    absent(&mut hasher);
                }
            }
        }
        let hash = hasher.finish128();
        [hash.h1, hash.h2]
    }
}

fn address(hasher: &mut SipHasher13, spec: &LimitSpec, subject: &Subject<'_>) {
    match subject.client_ip {
        Some(ip) => part(hasher, &network(ip, spec.ipv6_prefix())),
        None => absent(hasher),
    }
}

fn text(hasher: &mut SipHasher13, value: Option<&str>) {
    match value {
        Some(value) => part(hasher, value.as_bytes()),
        None => absent(hasher),
    }
}

fn part(hasher: &mut SipHasher13, value: &[u8]) {
    hasher.write_u64(value.len() as u64);
    hasher.write(value);
}

/// No value has this length.
fn absent(hasher: &mut SipHasher13) {
    hasher.write_u64(u64::MAX);
}

/// The part of an address that one client holds: all of IPv4, a prefix of IPv6.
fn network(ip: IpAddr, ipv6_prefix: u8) -> [u8; 16] {
    // An IPv4 client on a dual-stack socket is the same client.
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(ipv6_prefix))
                .unwrap_or(0);
            (ip.to_bits() & mask).to_be_bytes()
        }
    }
}
