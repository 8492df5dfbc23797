//! Who may do what to whom, why and until when: policy documents, the decision on one request, and rate limits.
//!
//! Everything here is pure: no I/O, no clock that was not passed in, no TLS, no HTTP types. The life of a policy:
//!
//! 1. [`compile`] reads the documents of a directory (as [`Source`]s) into a [`Policy`], or says everything that is
//!    wrong with them at once. Nothing it does not understand is ever skipped.
//! 2. A connection asks [`Policy::view`] once for what concerns its caller, callee and port.
//! 3. For each request the proxy brings the target into canonical form ([`target`]), asks [`View::decide`] and charges
//!    the limits that the [`Allow`] names ([`limit`]). For an opaque TCP connection it asks [`View::admit`].
//! 4. What lasts is asked about again at [`Allow::until`] and under each new policy.
//!
//! [`explain`](mod@explain), [`lint`](mod@lint) and [`testing`] put questions to the same evaluator.

// In reading order: bytes to documents to rules to decisions, then the tools.
pub mod yaml;

pub mod target;

mod pattern;

mod profile;

mod document;

mod compile;

mod view;

mod engine;

pub mod limit;

pub mod explain;

pub mod lint;

pub mod testing;

pub use compile::{Options, ROOT_NAMESPACE, Source, compile};
pub use engine::{
    Allow, Attributes, Decision, Deny, Headers, LimitList, METHOD_OVERRIDES, Reason, is_same_field,
};
pub use profile::HttpProfile;
pub use view::{Caller, Counts, Latest, Policy, View};
