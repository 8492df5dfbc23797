//! The audit chain: what the CA did, each record naming the hash of the one before it.

use identity::SpiffeId;

/// The refusal of a caller that had proven who it is.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Who was refused: the ID of its SVID or of its enrolment.
    pub caller: SpiffeId,
    /// What it asked for, as the name of the call: `issue`, `renew`.
    pub operation: &'static str,
    /// One line; cut at 256 characters.
    pub reason: String,
}
