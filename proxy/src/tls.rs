//! TLS between sidecars: configurations that follow the live SVID and bundle, and the handshakes that use them.
//!
//! Path validation is `identity`'s. What is decided here: both sides authenticate, nothing is ever resumed (rustls resumes
//! without asking the verifier), and an expired SVID of our own is never presented.

mod live;
mod reason;
mod stream;

pub(crate) use live::LiveIdentity;
pub(crate) use reason::tls_reason;
pub(crate) use stream::Stream;

use crate::config::Protocol;
use crate::error::ConnectError;
use crate::hops::{self, Hops};
use crate::peer::Peer;
use crate::proof::{self, Name, Revocable};
use aws_lc_rs::digest;
use identity::tls::{BundleSource, ClientAuth};
use identity::{SpiffeId, Svid, Usage, VerifyError};
use rustls::ClientConfig;
use std::fmt::Write;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
/// Bytes that nobody looks into, by how many sidecars they have come through.
const TCP: [&[u8]; hops::MOST as usize] = [
    b"tipstaff-tcp",
    b"tipstaff-tcp-1",
    b"tipstaff-tcp-2",
    b"tipstaff-tcp-3",
    b"tipstaff-tcp-4",
    b"tipstaff-tcp-5",
    b"tipstaff-tcp-6",
    b"tipstaff-tcp-7",
    b"tipstaff-tcp-8",
    b"tipstaff-tcp-9",
    b"tipstaff-tcp-10",
    b"tipstaff-tcp-11",
    b"tipstaff-tcp-12",
    b"tipstaff-tcp-13",
    b"tipstaff-tcp-14",
    b"tipstaff-tcp-15",
];
/// See `proof.rs`.
const PROOF: &[u8] = b"tipstaff-proof";

/// Proof that a handshake with a verified client certificate has ended. Made only in this module.
#[derive(Debug)]
pub(crate) struct Verified(());

/// What both peers agreed to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alpn {
    Http1,
    Http2,
    Tcp(Hops),
    Proof,
}

/// What a client wants to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Http,
    /// For one exchange that HTTP/2 does not carry there.
    Http1,
    Tcp,
    Proof,
}

impl Alpn {
    /// Whoever agrees on nothing speaks what was there before ALPN.
    pub(crate) fn agreed(protocol: Option<&[u8]>) -> Self {
        match protocol {
            Some(HTTP2) => Self::Http2,
            Some(PROOF) => Self::Proof,
            other => {
                let hops = TCP.iter().position(|tcp| Some(*tcp) == other);
                hops.map_or(Self::Http1, |hops| Self::Tcp(Hops::of(hops)))
            }
        }
    }
}

impl Wanted {
    /// What a client says that it speaks, the preferred first.
    pub(crate) fn offers(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http => &[HTTP2, HTTP1],
            Self::Http1 => &[HTTP1],
            Self::Tcp => &[TCP[0]],
            Self::Proof => &[PROOF],
        }
    }
}

/// The server side, for what one kind of listener takes.
#[derive(Clone)]
pub(crate) struct Acceptor {
    acceptor: TlsAcceptor,
    identity: Arc<LiveIdentity>,
}

/// One for each protocol: what is offered depends on it.
#[derive(Debug, Clone)]
pub(crate) struct Acceptors {
    http: Acceptor,
    tcp: Acceptor,
}

impl Acceptors {
    pub(crate) fn new(identity: &Arc<LiveIdentity>) -> Self {
        let of = |protocol| Acceptor::new(Arc::clone(identity), protocol);
        Self {
            http: of(Protocol::Http),
            tcp: of(Protocol::Tcp),
        }
    }

    pub(crate) fn of(&self, protocol: Protocol) -> &Acceptor {
        match protocol {
            Protocol::Http => &self.http,
            Protocol::Tcp => &self.tcp,
        }
    }
}

impl Acceptor {
    pub(crate) fn new(identity: Arc<LiveIdentity>, protocol: Protocol) -> Self {
        let config = identity::tls::server_config_resolving(
            identity.clone(),
            identity.clone(),
            ClientAuth::Required,
            &spoken(protocol),
        );
        Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            identity,
        }
    }

    /// Shakes hands with a caller. The caller of this sets the deadline.
    pub(crate) async fn accept<S>(&self, stream: S) -> Result<Accepted<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let own = self.identity.present()?;
        let tls = self
            .acceptor
            .accept(stream)
            .await
            .map_err(HandshakeError::Tls)?;
        let (_, session) = tls.get_ref();
        let name = session
            .export_keying_material([0; 32], proof::LABEL, None)
            .map_err(HandshakeError::Name)?;
        let chain = session.peer_certificates().unwrap_or_default();
        // The handshake has asked the same: what is new is who it is.
        let verified = self
            .identity
            .verify(chain, Usage::Client, SystemTime::now())?;
        let ends = verified.leaf.not_after.min(own.leaf().not_after);
        let revocable = Revocable::new(&verified, &self.identity);
        let peer = Peer::new(Verified(()), verified, own.id(), &fingerprint(&chain[0]));
        let alpn = Alpn::agreed(session.alpn_protocol());
        Ok(Accepted {
            tls: Stream::server(tls, alpn),
            peer,
            alpn,
            name,
            ends,
            revocable,
            own: own.id().clone(),
        })
    }
}

/// A finished handshake.
pub(crate) struct Accepted<S> {
    pub(crate) tls: Stream<S>,
    pub(crate) peer: Peer,
    pub(crate) alpn: Alpn,
    pub(crate) name: Name,
    /// When the first of the two certificates expires: the connection must not outlive it.
    pub(crate) ends: SystemTime,
    /// Nor its revocation.
    pub(crate) revocable: Revocable,
    /// Who the caller reached: this sidecar's identity.
    pub(crate) own: SpiffeId,
}

/// Why a handshake with a caller failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("no certificate to present")]
    Identity(#[from] ConnectError),
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    #[error("the connection has no name")]
    Name(#[source] rustls::Error),
    #[error("the caller's certificate is no longer good")]
    Caller(#[from] VerifyError),
}

impl HandshakeError {
    /// A word from a closed set, for logs and as a metric label.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Identity(error) => error.reason(),
            Self::Caller(error) => error.reason(),
            Self::Tls(error) => tls_reason(error),
            Self::Name(_) => "tls_error",
        }
    }
}

/// The client side towards one expected identity.
#[derive(Debug)]
pub(crate) struct Connector {
    expected: SpiffeId,
    wanted: Wanted,
    live: Arc<LiveIdentity>,
    /// What the last connection was made with.
    last: Mutex<Option<Credentials>>,
}

/// One SVID, and TLS under it: a connection belongs to one certificate.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    svid: Arc<Svid>,
    config: Arc<ClientConfig>,
}

impl Credentials {
    /// For opaque TCP that has come through so many sidecars.
    pub(crate) fn after(mut self, hops: Hops) -> Self {
        // Only what comes from another sidecar pays for a copy. What nobody may be told is not said, and refused there.
        if hops != Hops::default() {
            let told = TCP.get(hops.count()).map(|protocol| protocol.to_vec());
            Arc::make_mut(&mut self.config).alpn_protocols = told.into_iter().collect();
        }
        self
    }
}

impl Connector {
    pub(crate) fn new(expected: SpiffeId, wanted: Wanted, live: Arc<LiveIdentity>) -> Self {
        Self {
            expected,
            wanted,
            live,
            last: Mutex::new(None),
        }
    }

    pub(crate) fn expected(&self) -> &SpiffeId {
        &self.expected
    }

    /// What to connect with now.
    pub(crate) fn credentials(&self) -> Result<Credentials, ConnectError> {
        let svid = self.live.present()?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_ref().filter(|last| Arc::ptr_eq(&last.svid, &svid)) {
            return Ok(last.clone());
        }
        let bundles = Arc::clone(&self.live) as Arc<dyn BundleSource>;
        let expected = self.expected.clone();
        let alpn = self.wanted.offers();
        let config = identity::tls::client_config(Some(&svid), bundles, expected, alpn);
        let config = Arc::new(config);
        Ok(last.insert(Credentials { svid, config }).clone())
    }

    /// Shakes hands with a server. The caller of this sets the deadline.
    pub(crate) async fn connect<S>(
        &self,
        own: Credentials,
        stream: S,
    ) -> Result<Connected<S>, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let tls = TlsConnector::from(own.config)
            .connect(identity::tls::server_name(), stream)
            .await
            .map_err(|error| ConnectError::Handshake(Arc::new(error)))?;
        let (_, session) = tls.get_ref();
        let name = session
            .export_keying_material([0; 32], proof::LABEL, None)
            .map_err(|error| ConnectError::Handshake(Arc::new(io::Error::other(error))))?;
        let chain = session.peer_certificates().unwrap_or_default();
        // The handshake has asked the same: what is new is for how long.
        let verified = self.live.verify(chain, Usage::Server, SystemTime::now())?;
        let alpn = Alpn::agreed(session.alpn_protocol());
        Ok(Connected {
            tls: Stream::client(tls, alpn),
            alpn,
            name,
            ends: verified.leaf.not_after.min(own.svid.leaf().not_after),
            revocable: Revocable::new(&verified, &self.live),
        })
    }
}

/// A finished handshake with a server.
pub(crate) struct Connected<S> {
    pub(crate) tls: Stream<S>,
    pub(crate) alpn: Alpn,
    pub(crate) name: Name,
    /// When the first of the two certificates expires.
    pub(crate) ends: SystemTime,
    /// The server's certificate may be revoked before.
    pub(crate) revocable: Revocable,
}

/// What a listener for `protocol` takes.
fn spoken(protocol: Protocol) -> Vec<&'static [u8]> {
    match protocol {
        Protocol::Http => vec![HTTP2, HTTP1, PROOF],
        Protocol::Tcp => TCP.into_iter().chain([PROOF]).collect(),
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

fn fingerprint(der: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, der);
    let mut hex = String::with_capacity(64);
    for byte in hash.as_ref() {
        write!(hex, "{byte:02x}").expect("writing to a String does not fail");
    }
    hex
}
