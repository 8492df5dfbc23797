//! Signing, and reading back what was signed.

use super::signers::Issuing;
use super::slots::Slots;
use super::{IssueError, Issued, Request};
use crate::config::{DEFAULT_TTL, MAX_TTL, TtlFloor};
use crate::csr::KeyHash;
use crate::profile::{self, Validity};
use crate::signer::CaKey;
use identity::{Leaf, TrustBundle, Usage, VerifiedIssuer, VerifyError};
use rcgen::Issuer;
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use std::time::SystemTime;

/// For which leaves are validated: as a client is as a server, as the leaf profile wants both uses or none, and no issuer of
/// ours restricts its leaves.
pub(super) const USAGE: Usage = Usage::Client;

/// The issuing key and what limits its use.
pub(super) struct Signer {
    pub(super) issuer: Issuer<'static, CaKey>,
    pub(super) root: CertificateDer<'static>,
    /// `None` when the root issues.
    pub(super) intermediate: Option<CertificateDer<'static>>,
    /// Where the validity of all issuers overlaps.
    pub(super) issuer_validity: Validity,
    pub(super) ttl_floor: TtlFloor,
    pub(super) slots: Slots,
    verified: VerifiedIssuer,
}

impl Signer {
    pub(super) fn new(issuing: Issuing, ttl_floor: TtlFloor, slots: Slots) -> Self {
        Self {
            intermediate: Some(issuing.certificate).filter(|issuer| *issuer != issuing.root),
            issuer: issuing.issuer,
            root: issuing.root,
            issuer_validity: issuing.validity,
            ttl_floor,
            slots,
            verified: VerifiedIssuer::default(),
        }
    }

    /// Names the authority.
    pub(super) fn name(&self) -> KeyHash {
        self.issuer.key().hash()
    }

    pub(super) fn sign(
        &self,
        request: &Request,
        bundle: &Arc<TrustBundle>,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        let floor = self.ttl_floor.duration();
        let ttl = request.ttl.unwrap_or(DEFAULT_TTL).clamp(floor, MAX_TTL);
        let mut bounds = self.issuer_validity;
        if bounds.not_after < now + floor {
            return Err(IssueError::IssuerExpires { ttl });
        }
        if let Some(until) = request.until {
            if until < now + floor {
                return Err(IssueError::EvidenceEnds { floor });
            }
            bounds.not_after = bounds.not_after.min(until);
        }
        let validity = Validity::of_leaf(now, ttl, bounds);
        let leaf = profile::leaf(
            &request.id,
            &request.dns_names,
            &request.public_key,
            validity,
        )
        .and_then(|params| params.signed_by(&request.public_key, &self.issuer))
        .map_err(IssueError::Sign)?;

        let mut chain = vec![leaf.into()];
        // A root that issues itself is left out, as every root is.
        chain.extend(self.intermediate.clone());
        let leaf = check(&chain, request, validity, |chain| {
            self.verified.verify(bundle, chain, USAGE, now)
        })?;
        Ok(Issued {
            renew_at: self.slots.renew_at(&leaf.serial, now, leaf.not_after),
            id: leaf.id,
            chain,
            serial: leaf.serial,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
        })
    }
}

/// Reads the signed certificate back as a peer would, and validates it by `verify`. A fault in the profile, in rcgen or in
/// the CA's files stops here.
pub(super) fn check(
    chain: &[CertificateDer<'static>],
    request: &Request,
    validity: Validity,
    verify: impl FnOnce(&[CertificateDer<'static>]) -> Result<Leaf, VerifyError>,
) -> Result<Leaf, IssueError> {
    let leaf = verify(chain).map_err(|error| match error {
        VerifyError::Leaf(rule) => IssueError::Profile(rule),
        error => IssueError::Path(error),
    })?;
    let intended = leaf.id == request.id
        && profile::dns_names(&chain[0]).as_ref() == Some(&request.dns_names)
        && leaf.not_before == validity.not_before
        && leaf.not_after == validity.not_after;
    if !intended {
        return Err(IssueError::NotAsIntended(request.id.clone()));
    }
    Ok(leaf)
}
