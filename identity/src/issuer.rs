//! What issues many leaves and was verified once: each further leaf costs one signature, its own, not its issuer's as well.

use crate::verify::Validity;
use crate::{Leaf, TrustBundle, Usage, VerifyError};
use rustls_pki_types::{CertificateDer, TrustAnchor};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// The intermediate under which [`TrustBundle::verify`] has accepted a leaf, remembered for the bundle and the use.
///
/// The answers are those of `TrustBundle::verify` at any time and with any bundle: the intermediate is known by all of its
/// octets, counts only if the path led through it and for as long as it and every authority is valid, and another bundle
/// begins anew. Where an authority constrains names nothing is remembered. What is refused in short is asked in full.
#[derive(Debug, Default)]
pub struct VerifiedIssuer {
    known: Mutex<Option<Arc<Known>>>,
}

#[derive(Debug)]
struct Known {
    bundle: Arc<TrustBundle>,
    usage: Usage,
    certificate: CertificateDer<'static>,
    /// The same: a path of one leaf may end here.
    anchor: TrustAnchor<'static>,
    validity: Validity,
}

impl VerifiedIssuer {
    /// As [`TrustBundle::verify`].
    ///
    /// # Errors
    /// The first rule that the chain breaks.
    pub fn verify(
        &self,
        bundle: &Arc<TrustBundle>,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: SystemTime,
    ) -> Result<Leaf, VerifyError> {
        let [first, issuer] = chain else {
            return bundle.verify(chain, usage, now);
        };
        if let Some(known) = self.find(bundle, issuer, usage, now)
            && let Ok(leaf) = bundle.verify_under(&known.anchor, first, usage, now)
        {
            return Ok(leaf);
        }
        let (leaf, path) = bundle.verify_path(chain, usage, now)?;
        // Beside an intermediate that was sent in vain the leaf may be an authority's own.
        if path.intermediates == 1 && !bundle.constrains_names() {
            self.remember(bundle, issuer, usage, path.validity);
        }
        Ok(leaf)
    }

    fn find(
        &self,
        bundle: &Arc<TrustBundle>,
        issuer: &CertificateDer<'_>,
        usage: Usage,
        now: SystemTime,
    ) -> Option<Arc<Known>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_ref()?;
        let counts = Arc::ptr_eq(&known.bundle, bundle)
            && known.certificate == *issuer
            && known.usage == usage
            && known.validity.contains(&now);
        counts.then(|| Arc::clone(known))
    }

    fn remember(
        &self,
        bundle: &Arc<TrustBundle>,
        issuer: &CertificateDer<'_>,
        usage: Usage,
        validity: Validity,
    ) {
        let Ok(anchor) = webpki::anchor_from_trusted_cert(issuer) else {
            return;
        };
        let known = Known {
            bundle: Arc::clone(bundle),
            usage,
            anchor: anchor.to_owned(),
            certificate: issuer.clone().into_owned(),
            validity,
        };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(known));
    }
}

#[cfg(test)]
mod tests;
