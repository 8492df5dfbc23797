//! The socket as its callers see it, with the generated clients.

#![expect(clippy::unwrap_used, reason = "a failed test, wherever in its harness")]

mod harness;

mod jwt;
mod sds;
mod x509;
