//! What can go wrong with a request, and whose fault it is. No statuses here: `respond.rs` chooses those.

use crate::access_log::{CALLER_GONE, DEADLINE_EXCEEDED};
use crate::authorize::{DecisionId, Denial};
use crate::body::Broken;
use crate::limit::Exceeded;
use crate::normalize::Rejection;
use crate::tls::tls_reason;
use identity::VerifyError;
use std::io;
use std::time::Duration;

/// Nothing is wrong but that there is too much.
const OVERLOADED: &str = "overloaded";

/// Who has to act on a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The caller: what it sent is not acceptable.
    Downstream,
    /// The app, or the sidecar of the service called.
    Upstream,
    /// This sidecar or its operator.
    Internal,
}

/// Why a request was answered by the proxy instead of by the app.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the request is not acceptable")]
    Rejected(#[from] Rejection),
    #[error("policy does not allow the request")]
    Denied(Denial),
    #[error("a rate limit is exceeded")]
    Limited(Exceeded),
    #[error("no configured service has the host {host:?}")]
    UnknownDestination { host: String, id: DecisionId },
    #[error("this sidecar is short of memory")]
    Overloaded,
    #[error("cannot reach the upstream")]
    Connect(#[from] ConnectError),
    #[error("expected a response head within {0:?}, found none")]
    ResponseTimeout(Duration),
    #[error("expected a response head within {0:?} of one attempt, found none")]
    TryTimeout(Duration),
    #[error("the deadline of the call is over")]
    DeadlineExceeded,
    #[error("the upstream broke off before its response head")]
    NoResponse(#[source] Broken),
    /// Nobody is left to be answered.
    #[error("the caller broke off")]
    CallerGone,
}

/// Why there is no connection to an upstream.
///
/// Shared by every request that waited for the same attempt, so it is cheap to clone.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("this sidecar has no identity yet")]
    NoIdentity,
    #[error("this sidecar's certificate has expired")]
    IdentityExpired,
    /// With what stands for the endpoints in the configuration.
    #[error("no address is known for {0}")]
    Unresolved(std::sync::Arc<str>),
    #[error("expected a connection within {0:?}, found none")]
    Timeout(Duration),
    #[error("cannot connect")]
    Io(#[source] std::sync::Arc<io::Error>),
    #[error("the TLS handshake failed")]
    Handshake(#[source] std::sync::Arc<io::Error>),
    #[error("the TLS handshake with the server failed: {}", tls_reason(.0))]
    Outside(#[source] std::sync::Arc<io::Error>),
    #[error("the server's address is this sidecar's own")]
    Loop,
    #[error("the upstream's certificate is no longer good")]
    Certificate(#[from] VerifyError),
    #[error("the upstream closed each connection before it took the request")]
    Unstable,
    #[error("each endpoint has as many requests or connections as it may")]
    Full,
    #[error("the only endpoint has failed time after time")]
    CircuitOpen,
    #[error("the upstream does not carry opaque TCP")]
    Protocol,
    #[error("the HTTP handshake failed")]
    Http(#[source] std::sync::Arc<h2::Error>),
}

impl Failure {
    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::Rejected(_) | Self::Denied(_) | Self::Limited(_) => Fault::Downstream,
            Self::UnknownDestination { .. } => Fault::Downstream,
            Self::Overloaded
            | Self::Connect(ConnectError::NoIdentity | ConnectError::IdentityExpired) => {
                Fault::Internal
            }
            Self::CallerGone => Fault::Downstream,
            Self::Connect(_)
            | Self::ResponseTimeout(_)
            | Self::TryTimeout(_)
            | Self::DeadlineExceeded
            | Self::NoResponse(_) => Fault::Upstream,
        }
    }

    /// A word from a closed set, for the access log and as a metric label.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Rejected(rejection) => rejection.reason(),
            Self::Denied(denial) => denial.reason(),
            Self::Limited(_) => "limited",
            Self::UnknownDestination { .. } => "unknown_destination",
            Self::Overloaded => OVERLOADED,
            Self::Connect(error) => error.reason(),
            Self::ResponseTimeout(_) => "response_timeout",
            Self::TryTimeout(_) => "try_timeout",
            Self::DeadlineExceeded => DEADLINE_EXCEEDED,
            Self::NoResponse(Broken::UnaskedUpgrade) => "unasked_upgrade",
            Self::NoResponse(Broken::Head(_)) => "bad_response",
            Self::NoResponse(_) => "no_response",
            Self::CallerGone => CALLER_GONE,
        }
    }
}

impl ConnectError {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoIdentity => "identity_absent",
            Self::IdentityExpired => "identity_expired",
            Self::Unresolved(_) => "unresolved",
            Self::Timeout(_) => "connect_timeout",
            Self::Io(_) => "connect_failed",
            Self::Handshake(_) => "handshake_failed",
            Self::Outside(error) => tls_reason(error),
            Self::Loop => "loop_to_self",
            Self::Unstable => "connection_lost",
            Self::Certificate(error) => error.reason(),
            Self::Full => OVERLOADED,
            Self::CircuitOpen => "circuit_open",
            Self::Protocol => "no_common_protocol",
            Self::Http(_) => "protocol_error",
        }
    }
}
