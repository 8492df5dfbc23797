//! `inbound:`, where callers reach the workload.

use std::net::SocketAddr;

use serde::Serialize;

use super::Destination;
use super::text::as_text;

/// The port of this machine that the rules of `tipstaff redirect` lead to the inbound listener, for the sidecar's own probe.
pub const INBOUND_DOOR: u16 = 15056;

/// One inbound port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inbound {
    pub listen: SocketAddr,
    /// The workload.
    #[serde(serialize_with = "as_text")]
    pub app: App,
    pub protocol: Protocol,
    pub mtls: Mtls,
    /// Ports of the workload at which callers speak [`Protocol::Tcp`] all the same. Empty unless the app is
    /// [`App::Original`].
    pub tcp_ports: Vec<u16>,
}

/// What callers speak inside mutual TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Http,
    /// Bytes that nobody looks into: PostgreSQL, Redis. Granted by identity alone.
    Tcp,
}

/// Who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mtls {
    /// Only who proves an identity by mutual TLS.
    Strict,
    /// Callers in plain text, too: they are `unauthenticated`, and get what a grant gives to that word.
    Permissive,
}

impl Inbound {
    /// What callers speak to the workload's `port`.
    pub fn protocol_at(&self, port: u16) -> Protocol {
        match self.tcp_ports.contains(&port) {
            true => Protocol::Tcp,
            false => self.protocol,
        }
    }

    /// The port that policy documents speak of: the workload's, or where it has none this listener's. None: the one that
    /// each connection was made to.
    pub fn port(&self) -> Option<u16> {
        match &self.app {
            App::At(Destination::Tcp(endpoint)) => Some(endpoint.port),
            App::At(Destination::Unix(_)) => Some(self.listen.port()),
            App::Original => None,
        }
    }
}

/// Where the workload listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum App {
    At(Destination),
    /// On 127.0.0.1, at the port that each caller connected to before the kernel redirected it here.
    Original,
}

impl<D: Into<Destination>> From<D> for App {
    fn from(destination: D) -> Self {
        Self::At(destination.into())
    }
}
