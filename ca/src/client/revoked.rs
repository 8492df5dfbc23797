//! A list of what is revoked as the CA sends it.

use crate::proto;
use identity::{Revocations, SpiffeId};
use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

/// `None` when any part of it cannot be read: a list with holes would let in whom it does not name.
pub(super) fn parse(message: proto::Revocations) -> Option<Revocations> {
    let mut list = Revocations {
        sequence: message.sequence,
        serials: message.serials.iter().map(|octets| hex(octets)).collect(),
        ..Revocations::default()
    };
    for identity in message.identities {
        let id = SpiffeId::parse(&identity.spiffe_id).ok()?;
        let again = match u64::try_from(identity.not_before_unix).ok()? {
            0 => None,
            seconds => Some(UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?),
        };
        list.identities.insert(id, again);
    }
    for key in message.authorities {
        list.signers.insert(key.try_into().ok()?);
    }
    Some(list)
}

/// As [`identity::Leaf`] writes serials.
fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut hex, octet| {
        let _ = write!(hex, "{octet:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> proto::Revocations {
        proto::Revocations {
            sequence: 3,
            serials: vec![vec![0x4f, 0xa1], vec![0x0b]],
            identities: vec![proto::RevokedIdentity {
                spiffe_id: "spiffe://demo.test/a".to_owned(),
                not_before_unix: 100,
            }],
            authorities: vec![vec![7; 32]],
        }
    }

    #[test]
    fn a_whole_list_is_read() {
        let list = parse(message()).unwrap();
        assert_eq!(list.sequence, 3);
        assert!(list.serials.contains("4fa1") && list.serials.contains("0b"));
        let id = SpiffeId::parse("spiffe://demo.test/a").unwrap();
        let again = UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!(list.identities.get(&id), Some(&Some(again)));
        assert!(list.signers.contains(&[7; 32]));
    }

    #[test]
    fn a_list_of_which_a_part_cannot_be_read_is_none() {
        let with = |change: fn(&mut proto::Revocations)| {
            let mut message = message();
            change(&mut message);
            parse(message)
        };
        assert_eq!(
            with(|list| list.identities[0].spiffe_id = "a".to_owned()),
            None
        );
        assert_eq!(with(|list| list.identities[0].not_before_unix = -1), None);
        assert_eq!(with(|list| list.authorities[0].truncate(31)), None);
    }
}
