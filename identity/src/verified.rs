//! What was verified before: a peer that connects again with the same certificates costs one signature, its own, not three.

use crate::verify::Validity;
use crate::{TrustBundle, Usage, VerifiedChain, VerifyError};
use aws_lc_rs::digest::{self, SHA256};
use rustls_pki_types::CertificateDer;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// How many chains are remembered, about 300 octets each. Only what verifies is, so that no stranger can fill it.
const MOST_CHAINS: usize = 1024;

/// Longer chains are verified each time: what is sent beyond a leaf and its issuers need not have signed anything, so that
/// one peer could have many chains.
const MOST_CERTIFICATES: usize = 4;

/// Chains that [`TrustBundle::verify`] has accepted, remembered for the bundle and the use they were accepted for.
///
/// The answers are those of `TrustBundle::verify` at any time and with any bundle: a chain is known by a SHA-256 over all of
/// its octets, an answer counts for as long as every certificate behind it is valid, and another bundle begins anew. What
/// is refused is not remembered.
#[derive(Debug, Default)]
pub struct VerifiedChains {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    bundle: Option<Arc<TrustBundle>>,
    chains: HashMap<[u8; 32], Verified>,
}

#[derive(Debug, Clone)]
struct Verified {
    chain: Arc<VerifiedChain>,
    validity: Validity,
}

impl VerifiedChains {
    /// As [`TrustBundle::verify_chain`].
    ///
    /// # Errors
    /// The first rule that the chain breaks.
    pub fn verify(
        &self,
        bundle: &Arc<TrustBundle>,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: SystemTime,
    ) -> Result<Arc<VerifiedChain>, VerifyError> {
        let name = name(chain, usage);
        if let Some(verified) = self.find(bundle, &name, now) {
            return Ok(verified);
        }
        let (verified, validity) = bundle.verify_for(chain, usage, now)?;
        let verified = Arc::new(verified);
        if chain.len() <= MOST_CERTIFICATES {
            let chain = Arc::clone(&verified);
            self.remember(bundle, name, Verified { chain, validity });
        }
        Ok(verified)
    }

    fn find(
        &self,
        bundle: &Arc<TrustBundle>,
        name: &[u8; 32],
        now: SystemTime,
    ) -> Option<Arc<VerifiedChain>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.is_under(bundle) {
            return None;
        }
        let verified = known.chains.get(name)?;
        verified
            .validity
            .contains(&now)
            .then(|| Arc::clone(&verified.chain))
    }

    fn remember(&self, bundle: &Arc<TrustBundle>, name: [u8; 32], verified: Verified) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.is_under(bundle) {
            known.chains.clear();
            known.bundle = Some(Arc::clone(bundle));
        } else if known.chains.len() >= MOST_CHAINS {
            // To begin anew costs every peer one verification, and needs no record of who came when.
            known.chains.clear();
        }
        known.chains.insert(name, verified);
    }
}

impl Known {
    fn is_under(&self, bundle: &Arc<TrustBundle>) -> bool {
        self.bundle
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, bundle))
    }
}

/// The lengths keep two chains with the same octets, cut in other places, apart.
fn name(chain: &[CertificateDer<'_>], usage: Usage) -> [u8; 32] {
    let mut hash = digest::Context::new(&SHA256);
    hash.update(match usage {
        Usage::Client => b"client",
        Usage::Server => b"server",
    });
    for certificate in chain {
        hash.update(&(certificate.len() as u64).to_be_bytes());
        hash.update(certificate);
    }
    let mut name = [0; 32];
    name.copy_from_slice(hash.finish().as_ref());
    name
}

#[cfg(test)]
mod tests;
