//! Who a certificate speaks for: SPIFFE IDs, X.509-SVIDs, trust bundles and the one verifier that ties them together.
//!
//! Nothing here does I/O or knows a clock it was not given (rustls passes the handshake's time to its verifiers). What a
//! peer sends is parsed here, so nothing here panics on any bytes; everything not understood is refused.
//!
//! ```
//! use identity::{SpiffeId, TrustDomain};
//!
//! let trust_domain = TrustDomain::parse("prod.example")?;
//! let front = SpiffeId::parse("spiffe://prod.example/ns/shop/sa/front")?;
//! assert!(front.is_member_of(&trust_domain));
//! assert_eq!(front.service_account(), Some("front"));
//!
//! // The mesh's own servers have names that no workload gets.
//! assert!(SpiffeId::ca_server(&trust_domain).is_reserved());
//!
//! // Nothing is repaired: what is not written as the specification says is no identity.
//! assert!(SpiffeId::parse("spiffe://Prod.example/ns/shop/sa/front").is_err());
//! assert!(SpiffeId::parse("spiffe://prod.example/ns/shop//sa/front").is_err());
//! # Ok::<(), identity::ParseIdError>(())
//! ```
#![warn(missing_docs)]

pub mod id;

pub mod cert;

pub mod svid;

pub mod portable;

pub mod bundle;

pub mod jwt;

pub mod pem;

pub mod verify;

pub mod revoked;

pub mod verified;

pub mod issuer;

pub mod tls;

pub mod clock;

#[cfg(test)]
mod mint;
#[cfg(test)]
mod vectors;

pub use bundle::{BundleError, SuccessorError, TrustBundle};
pub use cert::{CertError, Leaf};
pub use clock::{CaTime, ClockSkew};
pub use id::{ParseIdError, SpiffeId, TrustDomain};
pub use issuer::VerifiedIssuer;
pub use portable::PortableSvid;
pub use revoked::Revocations;
pub use svid::{Svid, SvidError};
pub use verified::VerifiedChains;
pub use verify::{Usage, VerifiedChain, VerifyError};
