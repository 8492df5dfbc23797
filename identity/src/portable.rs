//! An X.509-SVID that may leave the process, private key and all.

use crate::{Leaf, SpiffeId, Svid, SvidError};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use zeroize::Zeroizing;

/// An SVID whose private key can be read: for the workload that it was made for, which is given it over the SPIFFE Workload
/// API or SDS. A sidecar's own key is never in one of these; see [`Svid`].
///
/// Holds to what [`Svid`] promises of chain and key. The key's encoding is zeroed on drop and never printed.
pub struct PortableSvid {
    svid: Svid,
    key: Zeroizing<Vec<u8>>,
}

impl PortableSvid {
    /// Takes the chain (leaf first) and its key as PKCS#8 DER.
    ///
    /// # Errors
    /// As [`Svid::new`].
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: Zeroizing<Vec<u8>>,
    ) -> Result<Self, SvidError> {
        // rustls zeroes the copy that it is given.
        let copy = PrivateKeyDer::Pkcs8(key.to_vec().into());
        let svid = Svid::new(chain, copy)?;
        Ok(Self { svid, key })
    }

    /// Who it speaks for.
    pub fn id(&self) -> &SpiffeId {
        self.svid.id()
    }

    /// What the leaf says.
    pub fn leaf(&self) -> &Leaf {
        self.svid.leaf()
    }

    /// Leaf first, then intermediates.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        self.svid.chain()
    }

    /// The private key, PKCS#8 DER. Whoever copies it zeroes the copy, or hands it to the workload.
    pub fn key(&self) -> &[u8] {
        &self.key
    }
}

impl fmt::Debug for PortableSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortableSvid")
            .field("leaf", self.leaf())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mint::{self, Minted, WORKLOAD};
    use rcgen::KeyPair;

    #[test]
    fn the_key_is_the_leafs_and_is_not_printed() {
        let leaf = Minted::root().sign(mint::leaf(WORKLOAD));
        let (chain, der) = (
            vec![leaf.der.clone()],
            leaf.private_key().secret_der().to_vec(),
        );
        let svid = PortableSvid::new(chain.clone(), Zeroizing::new(der.clone())).unwrap();
        assert_eq!(
            (svid.chain(), svid.key()),
            (chain.as_slice(), der.as_slice())
        );
        let printed = format!("{svid:?}");
        assert!(printed.contains("leaf"), "{printed}");
        for part in der.windows(8) {
            assert!(!printed.contains(&format!("{part:?}")), "{printed}");
        }

        let other = KeyPair::generate().unwrap().serialize_der();
        assert!(matches!(
            PortableSvid::new(chain, Zeroizing::new(other)),
            Err(SvidError::KeyMismatch)
        ));
    }
}
