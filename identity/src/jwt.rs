//! JWT-SVIDs: what one says, the keys that vouch for it, and the one verification (SPIFFE JWT-SVID).
//!
//! Only what the specification allows is understood: JWS compact serialization, the headers `alg`, `kid` and `typ`, and
//! signatures by RSA or ECDSA. The algorithm is the key's as much as the token's, so that no token chooses how it is
//! looked at.

mod claims;
mod key;
mod verify;

pub use claims::{Claims, encode};
pub use key::{JwtKey, JwtKeyError, JwtKeys};
pub use verify::{JwtError, claimed_trust_domain};

#[cfg(test)]
mod tests;
