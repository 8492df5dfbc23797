//! The list as a CRL (RFC 5280 section 5), for verifiers that are no sidecars of ours.

use super::{Entry, Reason, octets};
use crate::csr::KeyHash;
use crate::profile::key_id;
use crate::signer::CaKey;
use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, RevocationReason, RevokedCertParams,
    SerialNumber,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// From one CRL to the latest moment of the next.
pub(crate) const LIFE: Duration = Duration::from_secs(60 * 60);
/// An unchanged list is signed again after this, so that whoever fetches it has half its life left.
const REFRESH: Duration = Duration::from_secs(30 * 60);
/// For verifiers whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(300);

/// A signed list.
#[derive(Debug, Clone)]
pub(crate) struct Crl {
    pub(crate) der: Vec<u8>,
    /// The version of the list, and when it was signed.
    pub(crate) sequence: u64,
    pub(crate) made_at: SystemTime,
    number: u64,
    /// Whose key signed it.
    issuer: KeyHash,
}

impl Crl {
    /// Signs `entries` as version `sequence`. `last` is what was signed before.
    ///
    /// The number (section 5.2.3) grows with the clock, so that it does so over restarts and on every replica, and by one
    /// at least.
    pub(crate) fn sign(
        issuer: &Issuer<'_, CaKey>,
        entries: &[Entry],
        sequence: u64,
        now: SystemTime,
        last: Option<&Self>,
    ) -> Result<Self, rcgen::Error> {
        let by_clock = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let number = by_clock.max(last.map_or(0, |last| last.number + 1));
        let revoked_certs = entries.iter().filter_map(revoked).collect();
        let params = CertificateRevocationListParams {
            this_update: (now - BACKDATE).into(),
            next_update: (now + LIFE).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::PreSpecified(key_id(issuer.key())),
        };
        Ok(Self {
            der: params.signed_by(issuer)?.der().to_vec(),
            sequence,
            made_at: now,
            number,
            issuer: issuer.key().hash(),
        })
    }

    /// Whether it still says what there is to say.
    pub(crate) fn is_current(&self, issuer: &KeyHash, sequence: u64, now: SystemTime) -> bool {
        let age = now.duration_since(self.made_at);
        // A clock that was set back makes the age unknown.
        self.issuer == *issuer && self.sequence == sequence && age.is_ok_and(|age| age < REFRESH)
    }
}

/// A serial that is none, as only tampering can bring about, is left out.
fn revoked(entry: &Entry) -> Option<RevokedCertParams> {
    Some(RevokedCertParams {
        serial_number: SerialNumber::from(octets(&entry.serial)?),
        revocation_time: entry.revoked_at.into(),
        reason_code: match entry.reason {
            // Section 5.3.1: to be left out rather than said.
            Reason::Unspecified => None,
            Reason::KeyCompromise => Some(RevocationReason::KeyCompromise),
            Reason::CaCompromise => Some(RevocationReason::CaCompromise),
            Reason::AffiliationChanged => Some(RevocationReason::AffiliationChanged),
            Reason::Superseded => Some(RevocationReason::Superseded),
            Reason::CessationOfOperation => Some(RevocationReason::CessationOfOperation),
            Reason::PrivilegeWithdrawn => Some(RevocationReason::PrivilegeWithdrawn),
        },
        invalidity_date: None,
    })
}
