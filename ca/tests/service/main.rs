//! The CA's service and its client over real TCP and TLS.
#![expect(
    clippy::unwrap_used,
    reason = "a test whose surroundings fail has to panic"
)]

mod harness;
mod issuer;
mod relay;

/// Callers that others vouch for: what a token is worth, and what is worth nothing.
mod attest;
/// The client's life: enrolment, renewal, a CA that goes away, one that is an impostor.
mod client;
/// Registration entries: what they give, and who may change them.
mod entries;
/// Bundles of other trust domains.
mod federation;
/// The same calls as JSON: what is translated, and what is refused.
mod gateway;
/// What strangers can and cannot do to the listener.
mod hostile;
/// What Issue answers to good and bad requests.
mod issue;
/// Lost replies and stolen keys.
mod lineage;
/// OIDC tokens and certificates of other CAs, which are worth what entries say.
mod outside;
/// More calls than can be served.
mod overload;
/// The same at renewals, and a sidecar that lives by it.
mod reattest;
/// Certificates that have expired, and are renewed all the same.
mod recovery;
/// What entries give besides identities.
mod registration;
/// Renew and WatchBundle, the calls of those who have an identity.
mod renew;
/// The cluster is asked about tokens.
mod review;
/// What is revoked gets nothing, and everybody is told.
mod revocation;
mod rollback;
/// The CA's own certificates are replaced.
mod rotation;
/// JWT-SVIDs: who gets which, and what is left on record.
mod tokens;
