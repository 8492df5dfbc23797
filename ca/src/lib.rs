//! The embedded certificate authority of one trust domain: what the signing key may do, and what it never does.
//!
//! [`Authority::issue`] is the only code that signs leaves. A certificate leaves it only after it was checked against
//! the X.509-SVID profile and a path validation, and after its audit record is on disk. Who may have which identity is
//! settled before, by attestation; what no workload may have is refused here in any case.

pub mod authority;
pub mod backup;
pub mod config;
pub mod csr;
pub mod directory;
pub mod dns;
pub mod drill;
pub mod entries;
pub mod inspect;
pub mod keys;
pub mod ledger;
pub mod lineage;
pub mod profile;
pub mod readiness;
pub mod revoke;
pub mod rotation;
pub mod signer;
pub mod store;
pub mod token;

// The service: the contract, the listener, what a call passes on its way to the authority, and the other end.
pub mod proto;

pub mod server;

mod admission;
mod api;
pub mod attest;
pub mod federation;
pub mod jwt;
mod turns;

pub mod client;

mod causes;
mod json;
mod listener;
pub mod metrics;
mod rendered;
mod watched;

pub use authority::{Authority, Issued, Request, Requester, init};
