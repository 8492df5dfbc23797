//! The end of the chain, signed: whoever keeps one can tell later that the records were set back to before it, which the
//! records themselves cannot.
//!
//! It is signed with the key of the CA's server certificate, which every sidecar can verify, whichever authority is active,
//! and which no workload can have. What the sidecars bring back is held against the ledger by `store/rollback.rs`.

use super::Head;
use crate::csr::PublicKey;
use crate::proto::LedgerHead;
use identity::{Revocations, SpiffeId, Svid, TrustBundle, TrustDomain, Usage};
use rustls::SignatureScheme;
use rustls_pki_types::CertificateDer;
use std::time::{Duration, UNIX_EPOCH};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// Names the purpose and the version of what is signed, so that no signature made for anything else counts here.
const PURPOSE: &[u8] = b"tipstaff.ca.v1/ledger-head\0";
/// Leaf and intermediates. What the CA sends is two long at most.
const MAX_CHAIN: usize = 4;

/// The ledger at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) head: Head,
    /// When it was last accepted that the ledger was set back, in milliseconds since the Unix epoch, and later than any before; 0 if
    /// never.
    pub(crate) accepted_ms: i64,
    /// When this was signed, by the clock of the machine that did it.
    pub(crate) signed_ms: i64,
}

impl Mark {
    /// `None` when the key cannot sign, as no key that the CA makes for itself is.
    pub(crate) fn sign(&self, server: &Svid) -> Option<LedgerHead> {
        let key = &server.certified_key().key;
        let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])?;
        let statement = self.statement(&server.id().trust_domain());
        Some(LedgerHead {
            seq: self.head.seq,
            hash: self.head.hash.to_vec(),
            accepted_unix_ms: self.accepted_ms,
            signed_unix_ms: self.signed_ms,
            chain: server.chain().iter().map(|der| der.to_vec()).collect(),
            signature: signer.sign(&statement).ok()?,
        })
    }

    /// What `message` says, if a CA of the bundle's trust domain has signed it: its certificate was valid then, and what it
    /// leads to is trusted now.
    pub(crate) fn verify(
        message: &LedgerHead,
        bundle: &TrustBundle,
        revocations: &Revocations,
    ) -> Option<Self> {
        let hash = message.hash.as_slice().try_into().ok()?;
        let mark = Self {
            head: Head {
                seq: message.seq,
                hash,
            },
            accepted_ms: message.accepted_unix_ms,
            signed_ms: message.signed_unix_ms,
        };
        if message.chain.len() > MAX_CHAIN {
            return None;
        }
        let chain: Vec<_> = message
            .chain
            .iter()
            .map(|der| CertificateDer::from(&**der))
            .collect();
        let signed_at = Duration::from_millis(mark.signed_ms.try_into().ok()?);
        let signed_at = UNIX_EPOCH.checked_add(signed_at)?;
        let verified = bundle.verify_chain(&chain, Usage::Server, signed_at).ok()?;
        revocations.check(&verified).ok()?;
        if verified.leaf.id != SpiffeId::ca_server(bundle.trust_domain()) {
            return None;
        }
        let (_, leaf) = X509Certificate::from_der(chain.first()?).ok()?;
        let key = PublicKey::from_spki(leaf.public_key().raw).ok()?;
        key.verify(&mark.statement(bundle.trust_domain()), &message.signature)
            .then_some(mark)
    }

    /// Whether this is of a later state than `other`: the ledger grows, and when it was set back and that was accepted, the
    /// new branch comes after all of the old.
    pub(crate) fn is_after(&self, other: &Self) -> bool {
        (self.accepted_ms, self.head.seq) > (other.accepted_ms, other.head.seq)
    }

    /// NUL ends the one part that has no fixed width; no trust domain can contain it.
    fn statement(&self, trust_domain: &TrustDomain) -> Vec<u8> {
        [
            PURPOSE,
            trust_domain.as_str().as_bytes(),
            b"\0",
            &self.head.seq.to_be_bytes(),
            &self.head.hash,
            &self.accepted_ms.to_be_bytes(),
            &self.signed_ms.to_be_bytes(),
        ]
        .concat()
    }
}
