//! Where listeners are.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The address of a bound listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What was bound, in the order of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    pub inbound: Vec<SocketAddr>,
    pub outbound: Option<Address>,
    /// Of the TCP services, then of external ones, in the order of the configuration.
    pub tcp: Vec<Address>,
    pub admin: SocketAddr,
}
