//! Upgrades (RFC 9110 section 7.8): a request that asks for another protocol on its connection, and gets it with a 101. On
//! HTTP/2 the same is an extended CONNECT, answered with a 200 (RFC 8441); between sidecars one is carried as the other.
//!
//! What is decided on is the request that asks, by its method and path like any other. Not a byte of the other protocol
//! flows before the app has agreed: until then it is a request without a body.

use crate::normalize::Rejection;
use crate::upstream::is_grpc;
use h2::ext::Protocol;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, response};

/// From one sidecar to another: the method of a request that HTTP/2 has to call CONNECT, where it is not GET.
const METHOD: HeaderName = HeaderName::from_static("tipstaff-method");
/// From one sidecar to another: the app's status, where it answered with success and did not switch. As the answer to a
/// CONNECT it would mean that it had.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("tipstaff-status");

/// The protocol that is asked for: an extension of a request's head from `normalize` on, and of the head that grants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upgrade(HeaderValue);

/// What a port takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Upgrades<'r> {
    /// Whatever the callee's sidecar decides.
    Any,
    /// In lower case.
    Listed(&'r [Box<str>]),
}

impl Upgrades<'_> {
    fn take(self, token: &str) -> bool {
        match self {
            Self::Any => !token.eq_ignore_ascii_case("h2c"),
            Self::Listed(listed) => listed.iter().any(|one| one.eq_ignore_ascii_case(token)),
        }
    }
}

/// Takes the upgrade that a head asks for out of it and makes it an extension; the method is the request's own then. An
/// offer of h2c is none: common clients send it, and go on without.
pub(crate) fn normalize(
    head: &mut Parts,
    is_http2: bool,
    upgrades: Upgrades<'_>,
) -> Result<(), Rejection> {
    let token = if is_http2 {
        extended_connect(head)?
    } else {
        field(&head.headers, head.version)?
    };
    let Some(token) = token else { return Ok(()) };
    let upgrade = Upgrade(token);
    upgrade.check(upgrades)?;
    // A call goes to the app over HTTP/2, where the request would become another one.
    if is_grpc(&head.method, &head.headers) {
        return Err(Rejection::Upgrade);
    }
    // Where it is there it is 0, which HTTP/2 would hold the other protocol to.
    head.headers.remove(CONTENT_LENGTH);
    head.extensions.insert(upgrade);
    Ok(())
}

fn field(headers: &HeaderMap, version: Version) -> Result<Option<HeaderValue>, Rejection> {
    if version == Version::HTTP_10 {
        // To be ignored (RFC 9110 section 7.8); the field goes with the others of the hop.
        return Ok(None);
    }
    let mut fields = headers
        .get_all(UPGRADE)
        .iter()
        .filter(|value| !value.as_bytes().eq_ignore_ascii_case(b"h2c"));
    let Some(token) = fields.next() else {
        return Ok(None);
    };
    let has_body = headers.contains_key(TRANSFER_ENCODING)
        || headers
            .get(CONTENT_LENGTH)
            .is_some_and(|length| length != "0");
    let is_alone = headers.get_all(UPGRADE).iter().nth(1).is_none();
    if !is_alone || has_body || !lists_upgrade(headers) {
        return Err(Rejection::Upgrade);
    }
    Ok(Some(token.clone()))
}

fn extended_connect(head: &mut Parts) -> Result<Option<HeaderValue>, Rejection> {
    let Some(protocol) = head.extensions.remove::<Protocol>() else {
        return Ok(None);
    };
    head.method = match head.headers.remove(METHOD) {
        None => Method::GET,
        Some(method) => Method::from_bytes(method.as_bytes()).map_err(|_| Rejection::Upgrade)?,
    };
    HeaderValue::from_str(protocol.as_str())
        .map(Some)
        .map_err(|_| Rejection::Upgrade)
}

/// Whether Connection lists Upgrade; otherwise it is not this hop's to look at (RFC 9110 section 7.8).
fn lists_upgrade(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| {
        let mut options = value.as_bytes().split(|byte| *byte == b',');
        options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    })
}

impl Upgrade {
    /// Whether a port takes it.
    pub(crate) fn check(&self, upgrades: Upgrades<'_>) -> Result<(), Rejection> {
        match self.0.to_str() {
            Ok(token) if upgrades.take(token) => Ok(()),
            _ => Err(Rejection::Upgrade),
        }
    }

    /// Whether a 101 with these fields is the answer to this.
    pub(crate) fn is_granted_by(&self, headers: &HeaderMap) -> bool {
        let mut fields = headers.get_all(UPGRADE).iter();
        let is_it = fields
            .next()
            .is_some_and(|token| token.as_bytes().eq_ignore_ascii_case(self.0.as_bytes()));
        is_it && fields.next().is_none() && lists_upgrade(headers)
    }

    /// The fields that ask for it, or grant it, on HTTP/1.1.
    pub(crate) fn fields(&self) -> [(HeaderName, HeaderValue); 2] {
        [
            (CONNECTION, HeaderValue::from_static("upgrade")),
            (UPGRADE, self.0.clone()),
        ]
    }

    /// Makes a request an extended CONNECT.
    pub(crate) fn connect(&self, request: &mut http::Request<()>) {
        let method = std::mem::replace(request.method_mut(), Method::CONNECT);
        if method != Method::GET
            && let Ok(method) = HeaderValue::from_str(method.as_str())
        {
            request.headers_mut().insert(METHOD, method);
        }
        // A token, hence visible ASCII.
        let protocol = self.0.to_str().unwrap_or_default();
        request.extensions_mut().insert(Protocol::from(protocol));
    }

    /// Reads the answer to an extended CONNECT.
    pub(crate) fn read_answer(&self, head: &mut response::Parts) {
        let answered = head.headers.remove(STATUS);
        if head.status == StatusCode::OK {
            head.status = StatusCode::SWITCHING_PROTOCOLS;
            head.extensions.insert(self.clone());
        } else if let Some(status) =
            answered.and_then(|status| StatusCode::from_bytes(status.as_bytes()).ok())
            && status.is_success()
        {
            head.status = status;
        }
    }
}

/// Fits a response head to the answer to an extended CONNECT. `is_whole` says that no body follows.
pub(crate) fn answer_connect(head: &mut response::Parts, is_whole: bool) {
    if is_whole {
        // What the answer to a HEAD says of a body that does not come would be a broken one in the answer to a CONNECT.
        head.headers.remove(CONTENT_LENGTH);
    }
    if head.extensions.get::<Upgrade>().is_some() {
        head.status = StatusCode::OK;
        head.headers.remove(CONTENT_LENGTH);
    } else if head.status.is_success() {
        head.headers
            .insert(STATUS, HeaderValue::from(head.status.as_u16()));
        head.status = StatusCode::BAD_GATEWAY;
    }
}
