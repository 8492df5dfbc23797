//! Identities for programs that speak TLS themselves: the SPIFFE Workload API and Envoy's SDS, on a Unix socket.
//!
//! Read the modules in the order below; it is the order in which a caller meets them. `socket` is where it connects, `server`
//! takes the connection, `caller` asks the kernel who that is, `call` finds out what that caller may have of the `holdings` (refusals are logged through `sampler`),
//! and `workload_api` or `sds` say it in the words of one protocol or the other.
//!
//! This crate cannot name the CA: what there is to hand out arrives through a watch channel of [`Holdings`]. A key that is
//! handed out was made for that; a sidecar's own key is not among them.
#![warn(missing_docs)]

mod socket;

mod server;

mod caller;

mod selector;

mod holdings;

mod sampler;

mod call;

mod workload_api;

mod sds;

pub mod proto;

pub use holdings::{Entitled, FederatesWith, Holdings, Identity, TokenAsk};
pub use selector::{ParseSelectorError, Selector};
pub use server::{Admits, Config, MAX_CONNECTIONS, MODE, Server};
pub use socket::{BindError, Predecessor};
