//! Who a certificate speaks for: SPIFFE IDs, X.509-SVIDs, trust bundles and the one verifier that ties them together.
//!
//! Nothing here does I/O or knows a clock it was not given (rustls passes the handshake's time to its verifiers).

pub mod bundle;
pub mod cert;
pub mod id;
pub mod svid;
pub mod tls;
pub mod verify;

pub use bundle::{BundleError, TrustBundle};
pub use cert::{CertError, Leaf};
pub use id::{ParseIdError, SpiffeId, TrustDomain};
pub use svid::{Svid, SvidError};
pub use verify::{Usage, VerifyError};
