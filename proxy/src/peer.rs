//! Who is connected. A [`Peer`] is constructed only by `tls.rs`, from a certificate that the handshake verified.

use crate::metrics;
use http::HeaderValue;
use identity::{Leaf, SpiffeId, VerifiedChain};
use policy::Caller;
use std::net::IpAddr;
use std::sync::Arc;

/// What the app is told of a caller in plain text, in place of a SPIFFE ID. None is spelt like that.
const UNAUTHENTICATED: HeaderValue = HeaderValue::from_static("unauthenticated");

/// Whoever is at the other end of an inbound connection, for as long as it lasts.
#[derive(Debug)]
pub(crate) enum Who {
    /// With the counters of its requests.
    Peer(Peer, metrics::Caller),
    /// In plain text, from this address. It has no identity and never gets one.
    Unauthenticated(IpAddr),
}

impl Who {
    /// As policy knows it.
    pub(crate) fn caller(&self) -> Caller<'_> {
        match self {
            Self::Peer(peer, _) => Caller::Identity(peer.id()),
            Self::Unauthenticated(_) => Caller::Unauthenticated,
        }
    }

    /// The value of `tipstaff-peer`, ready to be cloned into a request.
    pub(crate) fn header(&self) -> HeaderValue {
        match self {
            Self::Peer(peer, _) => peer.header.clone(),
            Self::Unauthenticated(_) => UNAUTHENTICATED,
        }
    }

    /// The value of `x-forwarded-client-cert`, in Envoy's format. Who has no certificate has none.
    pub(crate) fn forwarded_cert(&self) -> Option<HeaderValue> {
        match self {
            Self::Peer(peer, _) => Some(peer.forwarded_cert.clone()),
            Self::Unauthenticated(_) => None,
        }
    }
}

/// An authenticated caller.
///
/// Its existence is the proof: the only constructor takes the [`Verified`](crate::tls::Verified) token, which only a
/// finished handshake yields.
#[derive(Debug)]
pub(crate) struct Peer {
    verified: Arc<VerifiedChain>,
    /// The SPIFFE ID.
    header: HeaderValue,
    forwarded_cert: HeaderValue,
}

impl Peer {
    /// `own` is the identity that the caller reached; `hash` the hexadecimal SHA-256 of the caller's certificate.
    pub(crate) fn new(
        _proof: crate::tls::Verified,
        verified: Arc<VerifiedChain>,
        own: &SpiffeId,
        hash: &str,
    ) -> Self {
        // A SPIFFE ID holds no character that needs escaping here: no comma, semicolon, quote or space (SPIFFE-ID 2).
        let id = &verified.leaf.id;
        let forwarded_cert = format!("By={own};Hash={hash};URI={id}");
        Self {
            header: HeaderValue::from_str(id.as_str())
                .expect("a SPIFFE ID consists of visible ASCII"),
            forwarded_cert: HeaderValue::from_str(&forwarded_cert)
                .expect("SPIFFE IDs and hexadecimal digits are visible ASCII"),
            verified,
        }
    }

    pub(crate) fn id(&self) -> &SpiffeId {
        &self.verified.leaf.id
    }

    /// The verified certificate's own words.
    pub(crate) fn leaf(&self) -> &Leaf {
        &self.verified.leaf
    }
}
