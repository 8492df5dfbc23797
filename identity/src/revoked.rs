//! What was revoked before its time: certificates, identities, and the keys of authorities.

use crate::verify::VerifiedChain;
use crate::{SpiffeId, VerifyError};
use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

/// SHA-256 of a SubjectPublicKeyInfo: names an authority's key, whichever certificates it has.
pub type SignerKey = [u8; 32];

/// One version of a CA's list. Says nothing of certificates that have expired: those are refused in any case.
///
/// `sequence` only grows; whoever holds a list takes no older one, which would let back in whom it keeps out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    /// The number of this version; 0 before there is one.
    pub sequence: u64,
    /// Serials as in [`crate::Leaf::serial`].
    pub serials: HashSet<String>,
    /// Identities, and since when they may be had again: certificates that begin before that are revoked. `None` for all of
    /// them.
    pub identities: HashMap<SpiffeId, Option<SystemTime>>,
    /// Keys that signed what should not have been signed: everything below them is revoked.
    pub signers: HashSet<SignerKey>,
}

impl Revocations {
    /// Holds a verified chain to the list.
    ///
    /// # Errors
    /// [`VerifyError::Revoked`].
    pub fn check(&self, chain: &VerifiedChain) -> Result<(), VerifyError> {
        let leaf = &chain.leaf;
        let what = if self.serials.contains(&leaf.serial) {
            Revoked::Certificate
        } else if self
            .identities
            .get(&leaf.id)
            .is_some_and(|again| again.is_none_or(|again| leaf.not_before < again))
        {
            Revoked::Identity
        } else if chain.signers.iter().any(|key| self.signers.contains(key)) {
            Revoked::Authority
        } else {
            return Ok(());
        };
        Err(VerifyError::Revoked {
            what,
            id: leaf.id.clone(),
            serial: leaf.serial.clone(),
        })
    }
}

/// On which of the lists a certificate was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    /// By its serial.
    Certificate,
    /// By its SPIFFE ID.
    Identity,
    /// By the key of an authority that it depends on.
    Authority,
}

impl std::fmt::Display for Revoked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Certificate => "certificate",
            Self::Identity => "identity",
            Self::Authority => "authority",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mint::{self, Minted, WORKLOAD};
    use crate::{TrustBundle, Usage};
    use std::time::Duration;

    /// A leaf below an intermediate, verified.
    fn chain() -> VerifiedChain {
        let root = Minted::self_signed(mint::signer("root"));
        let intermediate = root.sign(mint::signer("intermediate"));
        let leaf = intermediate.sign(mint::leaf(WORKLOAD));
        let chain = [leaf.der, intermediate.der];
        let verified =
            TrustBundle::verify_chain(&root.bundle(), &chain, Usage::Client, mint::now());
        verified.unwrap()
    }

    fn what(list: &Revocations, chain: &VerifiedChain) -> Option<Revoked> {
        match list.check(chain) {
            Ok(()) => None,
            Err(VerifyError::Revoked { what, .. }) => Some(what),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_certificate_is_revoked_by_its_serial_its_identity_or_a_key_above_it_and_by_nothing_else() {
        let (one, other) = (chain(), chain());
        assert_eq!(one.signers.len(), 2, "the intermediate and the root");
        let by_serial = Revocations {
            serials: [one.leaf.serial.clone()].into(),
            ..Revocations::default()
        };
        let by_signer = |key| Revocations {
            signers: [key].into(),
            ..Revocations::default()
        };
        for (list, expected) in [
            (&by_serial, Revoked::Certificate),
            (&by_signer(one.signers[0]), Revoked::Authority),
            (&by_signer(one.signers[1]), Revoked::Authority),
        ] {
            assert_eq!(what(list, &one), Some(expected));
            assert_eq!(what(list, &other), None, "{expected}");
        }
        let by_identity = Revocations {
            identities: [(one.leaf.id.clone(), None)].into(),
            ..Revocations::default()
        };
        assert_eq!(what(&by_identity, &other), Some(Revoked::Identity));
        assert_eq!(what(&Revocations::default(), &one), None);
    }

    #[test]
    fn an_identity_that_may_be_had_again_is_refused_with_its_old_certificates_alone() {
        let chain = chain();
        let again = |moment| Revocations {
            identities: [(chain.leaf.id.clone(), Some(moment))].into(),
            ..Revocations::default()
        };
        let issued = chain.leaf.not_before;
        assert_eq!(what(&again(issued), &chain), None);
        let later = issued + Duration::from_secs(1);
        assert_eq!(what(&again(later), &chain), Some(Revoked::Identity));
    }
}
