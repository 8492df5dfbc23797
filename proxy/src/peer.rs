//! Who is connected. Constructed only by `tls.rs`, from a certificate that the handshake verified.

use http::HeaderValue;
use identity::{Leaf, SpiffeId};
use std::sync::Arc;

/// An authenticated caller.
///
/// Its existence is the proof: the only constructor takes the [`Verified`](crate::tls::Verified) token, which only a
/// finished handshake yields.
#[derive(Debug)]
pub(crate) struct Peer {
    leaf: Arc<Leaf>,
    header: HeaderValue,
    forwarded_cert: HeaderValue,
}

impl Peer {
    /// `own` is the identity that the caller reached; `hash` the hexadecimal SHA-256 of the caller's certificate.
    pub(crate) fn new(
        _proof: crate::tls::Verified,
        leaf: Arc<Leaf>,
        own: &SpiffeId,
        hash: &str,
    ) -> Self {
        // A SPIFFE ID holds no character that needs escaping here: no comma, semicolon, quote or space (SPIFFE-ID 2).
        let forwarded_cert = format!("By={own};Hash={hash};URI={}", leaf.id);
        Self {
            header: HeaderValue::from_str(leaf.id.as_str())
                .expect("a SPIFFE ID consists of visible ASCII"),
            forwarded_cert: HeaderValue::from_str(&forwarded_cert)
                .expect("SPIFFE IDs and hexadecimal digits are visible ASCII"),
            leaf,
        }
    }

    pub(crate) fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    /// The verified certificate's own words.
    pub(crate) fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// The value of `tipstaff-peer`: the SPIFFE ID, ready to be cloned into a request.
    pub(crate) fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// The value of `x-forwarded-client-cert`, in Envoy's format.
    pub(crate) fn forwarded_cert(&self) -> HeaderValue {
        self.forwarded_cert.clone()
    }
}
