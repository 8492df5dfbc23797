//! Consistent hashing: which endpoint has the requests of one key. When an endpoint leaves, only the keys that it had go to
//! others.

use crate::config::Endpoint;
use pingora_ketama::{Bucket, Continuum};
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Points of the ring that are looked at for one request. When half of the endpoints are out, that they all are of those is
/// as likely as guessing a key.
const LOOKED_AT: usize = 128;

/// A ring on which each endpoint has as many points as the others. Where they are depends on its address alone, so that all
/// workers and all sidecars agree.
pub(super) struct Ring {
    continuum: Continuum,
    places: HashMap<SocketAddr, usize>,
}

impl Ring {
    /// Each endpoint comes with its place.
    pub(super) fn new<'e>(endpoints: impl Iterator<Item = (usize, &'e Endpoint)>) -> Self {
        let places: HashMap<_, _> = endpoints
            .map(|(place, endpoint)| (address(endpoint), place))
            .collect();
        let buckets: Vec<_> = places.keys().map(|at| Bucket::new(*at, 1)).collect();
        Self {
            continuum: Continuum::new(&buckets),
            places,
        }
    }

    /// The places of endpoints for `key`, best first; some more than once.
    pub(super) fn places(&self, key: &[u8]) -> impl Iterator<Item = usize> {
        let points = self.continuum.node_iter(key).take(LOOKED_AT);
        points.filter_map(|point| self.places.get(point).copied())
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ring").field(&self.places).finish()
    }
}

/// The ring knows addresses alone. A name that is resolved at each connect gets one that stands for it: its FNV-1a hash.
fn address(endpoint: &Endpoint) -> SocketAddr {
    let ip = endpoint.host.parse().unwrap_or_else(|_| {
        let hash = endpoint
            .host
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        IpAddr::V6(Ipv6Addr::from(u128::from(hash)))
    });
    SocketAddr::new(ip, endpoint.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const KEYS: usize = 10_000;

    fn endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
        let host = prop_oneof![
            Just("10.0.0.7".to_owned()),
            "10\\.[0-9]{1,2}\\.[0-9]{1,2}\\.[1-9]",
            "fd00::[1-9a-f]{1,4}",
            "[a-z]{3,8}-[0-9]\\.shop\\.example",
        ];
        let all = prop::collection::btree_set((host, 1024..u16::MAX), 2..=12);
        all.prop_map(|all: BTreeSet<_>| {
            let endpoints = all.into_iter();
            endpoints
                .map(|(host, port)| Endpoint { host, port })
                .collect()
        })
    }

    /// The endpoint of each key.
    fn owners(endpoints: &[Endpoint]) -> Vec<&Endpoint> {
        let ring = Ring::new(endpoints.iter().enumerate());
        let owner = |key: usize| ring.places(format!("user-{key}").as_bytes()).next();
        (0..KEYS)
            .map(|key| &endpoints[owner(key).unwrap()])
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn an_endpoint_that_leaves_takes_its_own_keys_along_and_no_others(all in endpoints(), left in any::<prop::sample::Index>()) {
            let left = left.index(all.len());
            let before = owners(&all);
            let mut rest = all.clone();
            let gone = rest.remove(left);
            let moved = before.iter().zip(owners(&rest)).filter(|(a, b)| **a != *b);
            let of_others = moved.clone().filter(|(a, _)| **a != &gone).count();
            prop_assert_eq!(of_others, 0);
            let (moved, fair) = (moved.count(), KEYS / all.len());
            prop_assert!(moved <= fair * 8 / 5, "{} of {} moved", moved, KEYS);
        }

        #[test]
        fn each_endpoint_has_about_as_many_keys_as_the_others(all in endpoints()) {
            let owners = owners(&all);
            for endpoint in &all {
                let keys = owners.iter().filter(|owner| **owner == endpoint).count();
                let fair = KEYS / all.len();
                prop_assert!((fair / 2..=fair * 8 / 5).contains(&keys), "{} of {}", keys, KEYS);
            }
        }

        #[test]
        fn the_order_in_which_endpoints_are_listed_does_not_matter(all in endpoints()) {
            let reversed: Vec<_> = all.iter().rev().cloned().collect();
            prop_assert_eq!(owners(&all), owners(&reversed));
        }
    }
}
