//! One reading of a request, or none: rejects what two servers could read differently, and takes out what is not the
//! caller's to say. What remains is decided on and forwarded.
//!
//! On HTTP/1.1 `h1::head` has judged the syntax and the framing before. On HTTP/2 the `h2` crate has, except for what is
//! checked here; it cuts a `:path` at `#`, which is harmless: what is decided on is what is forwarded.

use crate::h1;
use crate::h1::head::HeadError;
use crate::hops::{GoesRound, HOPS, Hops};
use crate::upgrade::{self, Upgrades};
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, Entry, HOST, HeaderName, HeaderValue,
    InvalidHeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Version};
use policy::METHOD_OVERRIDES;
use policy::target::{self, Profile, Reject, host};
use std::sync::{Mutex, PoisonError};

/// Why a request is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejection {
    #[error(transparent)]
    Target(#[from] Reject),
    #[error("Host occurs more than once")]
    RepeatedHost,
    #[error("expected HTTP/1.1 or HTTP/2")]
    Version,
    #[error("the protocol that Upgrade asks for is not served here")]
    Upgrade,
    #[error("expected no other expectation than 100-continue")]
    Expectation,
    #[error("the end of the body is ambiguous")]
    Framing,
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error(transparent)]
    Body(h1::body::BodyError),
    #[error("a header field belongs to HTTP/1.1 connections")]
    ConnectionHeader,
    #[error("a header field has a character that is not allowed there")]
    HeaderValue,
    #[error("expected one grpc-timeout of up to eight digits and a unit")]
    GrpcTimeout,
    #[error("the request has come through too many sidecars")]
    GoesRound,
    #[error("policy speaks of another protocol here: {0}")]
    Protocol(&'static str),
}

impl Rejection {
    /// A word from a closed set, for logs and as a metric label.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Target(reject) => reject.reason(),
            Self::RepeatedHost => "repeated_host",
            Self::Version => "http_version",
            Self::Upgrade => "upgrade_not_enabled",
            Self::Expectation => "expectation",
            Self::Framing => "ambiguous_framing",
            Self::Head(error) => error.reason(),
            Self::Body(error) => error.reason(),
            Self::ConnectionHeader => "h2_connection_header",
            Self::HeaderValue => "bad_header_value",
            Self::GrpcTimeout => "bad_grpc_timeout",
            Self::GoesRound => "loop",
            Self::Protocol(reason) => reason,
        }
    }
}

impl From<GoesRound> for Rejection {
    fn from(_: GoesRound) -> Self {
        Self::GoesRound
    }
}

/// What was learnt on the way, beyond what is left in the request itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Normal {
    /// Length of the host name at the start of the canonical Host field: the rest is a port.
    host_name: usize,
    pub(crate) has_override: bool,
    pub(crate) hops: Hops,
    /// Set by whoever sees the body; a CORS preflight has none.
    pub(crate) has_body: bool,
}

impl Normal {
    /// The canonical name in the Host field that [`normalize`] left.
    pub(crate) fn host<'r>(&self, headers: &'r HeaderMap) -> &'r str {
        headers
            .get(HOST)
            .and_then(|value| value.to_str().ok())
            .and_then(|host| host.get(..self.host_name))
            .unwrap_or_default()
    }
}

/// The Host of the last request that came without one, as on HTTP/2: the next one mostly shares its octets.
#[derive(Debug, Default)]
pub(crate) struct Hosts(Mutex<Option<HeaderValue>>);

impl Hosts {
    fn value(&self, canonical: &[u8]) -> Result<HeaderValue, InvalidHeaderValue> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_ref().filter(|last| *last == canonical) {
            return Ok(last.clone());
        }
        let value = HeaderValue::from_bytes(canonical)?;
        Ok(last.insert(value).clone())
    }
}

/// How the requests of one connection are to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading<'r> {
    pub(crate) profile: &'r Profile,
    pub(crate) upgrades: Upgrades<'r>,
    pub(crate) takes_http10: bool,
    /// Of requests that came the same way.
    pub(crate) hosts: &'r Hosts,
}

/// Brings a request head into its one form: canonical target in origin-form, one canonical Host, no field that belongs
/// to the connection, no field that only a proxy may set. An [`Upgrade`](crate::upgrade::Upgrade) that it asks for is among
/// its extensions then.
pub(crate) fn normalize(head: &mut Parts, reading: Reading<'_>) -> Result<Normal, Rejection> {
    let is_http2 = match head.version {
        Version::HTTP_11 => false,
        Version::HTTP_10 if reading.takes_http10 => false,
        Version::HTTP_2 => true,
        _ => return Err(Rejection::Version),
    };
    upgrade::normalize(head, is_http2, reading.upgrades)?;
    target::check_method(head.method.as_str())?;
    if is_http2 {
        check_framing(&head.headers)?;
        join_crumbs(&mut head.headers)?;
    }
    let host_name = canonical_target(head, &reading, is_http2)?;
    let (has_override, hops) = strip(&mut head.headers, is_http2)?;
    Ok(Normal {
        host_name,
        has_override,
        hops,
        has_body: true,
    })
}

/// What `h1::head` sees to on HTTP/1.1.
fn check_framing(headers: &HeaderMap) -> Result<(), Rejection> {
    if headers.contains_key(TRANSFER_ENCODING) {
        return Err(Rejection::ConnectionHeader);
    }
    if headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(Rejection::Framing);
    }
    Ok(())
}

/// Cookies that HTTP/2 may have in crumbs are one field everywhere else (RFC 9113 section 8.2.3), and so to whoever decides.
fn join_crumbs(headers: &mut HeaderMap) -> Result<(), Rejection> {
    let crumbs = headers.get_all(COOKIE);
    if crumbs.iter().nth(1).is_none() {
        return Ok(());
    }
    let values: Vec<&[u8]> = crumbs.iter().map(HeaderValue::as_bytes).collect();
    let joined = HeaderValue::from_bytes(&values.join(&b"; "[..]));
    headers.insert(COOKIE, joined.map_err(|_| Rejection::HeaderValue)?);
    Ok(())
}

/// Replaces target and Host by their canonical forms where they differ; an authority in the target is not looked at again.
/// Answers the length of the host name.
fn canonical_target(
    head: &mut Parts,
    reading: &Reading<'_>,
    is_http2: bool,
) -> Result<usize, Rejection> {
    let uri = &head.uri;
    let written = match uri.path_and_query() {
        Some(path_and_query) => path_and_query.as_str(),
        // `http` reads `*` as a path, and an authority-form target belongs to CONNECT alone.
        None => return Err(Reject::NotAbsolute.into()),
    };
    // HTTP/1.1 has one in absolute-form only; HTTP/2 libraries take any (RFC 9113 section 8.3.1).
    if !matches!(
        (uri.scheme_str(), is_http2),
        (None | Some("http"), _) | (Some("https"), true)
    ) {
        return Err(Reject::BadScheme.into());
    }
    let target = target::canonicalise_path(written.as_bytes(), reading.profile)?;
    let canonical = match (&target.path, target.query) {
        (std::borrow::Cow::Borrowed(_), _) => None,
        (std::borrow::Cow::Owned(path), None) => Some(PathAndQuery::try_from(path.as_str())),
        (std::borrow::Cow::Owned(path), Some(query)) => {
            Some(PathAndQuery::try_from(format!("{path}?{query}")))
        }
    };
    let canonical = canonical
        .transpose()
        .map_err(|_| Rejection::Target(Reject::BadCharacter))?;

    let mut fields = head.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(Rejection::RepeatedHost);
    }
    let authority = uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let host = host::agree(
        field.map(HeaderValue::as_bytes),
        authority,
        host::DEFAULT_PORT,
    )?;
    let name_length = host.name().len();
    let host = match (field.map(HeaderValue::as_bytes), authority) {
        (Some(written), _) if is_written_as(&host, written) => None,
        // The usual case on HTTP/2, and cheaper than to write it anew.
        (None, Some(written)) if is_written_as(&host, written) => {
            Some(reading.hosts.value(written))
        }
        _ => Some(HeaderValue::try_from(host.to_string())),
    };
    let host = host.transpose().map_err(|_| Reject::BadHost)?;

    if let Some(host) = host {
        head.headers.insert(HOST, host);
    }
    if let Some(canonical) = canonical {
        head.uri = canonical.into();
    }
    Ok(name_length)
}

fn is_written_as(host: &host::Host<'_>, field: &[u8]) -> bool {
    let Some(rest) = field.strip_prefix(host.name().as_bytes()) else {
        return false;
    };
    match (host.port(), rest) {
        (None, rest) => rest.is_empty(),
        (Some(port), [b':', digits @ ..]) => itoa::Buffer::new().format(port).as_bytes() == digits,
        (Some(_), _) => false,
    }
}

/// What becomes of a header field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    Remove,
    Override,
}

/// Removes the fields of this hop (RFC 9110 section 7.6.1), then those that only a proxy may set. In this order and
/// before ours are added: otherwise `Connection: tipstaff-peer` would take ours out. Answers whether a method override is left, and
/// how far the request has come.
fn strip(headers: &mut HeaderMap, is_http2: bool) -> Result<(bool, Hops), Rejection> {
    if is_http2 && headers.contains_key(UPGRADE) {
        return Err(Rejection::ConnectionHeader);
    }
    let (mut has_override, mut hops) = (false, Hops::default());
    // Most requests have nothing to remove; then this allocates nothing.
    let mut removed: Vec<HeaderName> = Vec::new();
    for (name, value) in headers.iter() {
        match fate(name.as_str()) {
            Fate::Keep => {}
            Fate::Override => has_override = true,
            Fate::Remove if name == TE && is_http2 && value == "trailers" => {}
            // 100-continue is the connection's to see to; what else is expected is not ours to promise (RFC 9110 section 10.1.1).
            Fate::Remove
                if name == EXPECT && !value.as_bytes().eq_ignore_ascii_case(b"100-continue") =>
            {
                return Err(Rejection::Expectation);
            }
            Fate::Remove => {
                if name == CONNECTION {
                    removed.extend(listed(value)?);
                }
                if name == HOPS {
                    hops.hear(value)?;
                }
                removed.push(name.clone());
            }
        }
    }
    for name in removed {
        // Removing Host or a length that a caller lists here would change what was read (RFC 9110 section 7.6.1 forbids it).
        if name == HOST || name == CONTENT_LENGTH {
            return Err(Rejection::ConnectionHeader);
        }
        if let Entry::Occupied(field) = headers.entry(name) {
            field.remove_entry_mult();
        }
    }
    Ok((has_override, hops))
}

/// The field names that a Connection field lists.
fn listed(connection: &HeaderValue) -> Result<Vec<HeaderName>, Rejection> {
    connection
        .as_bytes()
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.is_empty())
        .map(|name| HeaderName::from_bytes(name).map_err(|_| Rejection::HeaderValue))
        .collect()
}

fn fate(name: &str) -> Fate {
    match name {
        "connection"
        | "keep-alive"
        | "proxy-connection"
        | "te"
        | "transfer-encoding"
        | "upgrade"
        | "http2-settings"
        | "proxy-authenticate"
        | "proxy-authorization"
        | "expect" => Fate::Remove,
        // Servers take these for the target or its host in place of the ones that were decided on.
        "forwarded"
        | "x-forwarded-host"
        | "x-forwarded-prefix"
        | "x-forwarded-uri"
        | "x-original-url"
        | "x-original-uri"
        | "x-original-host"
        | "x-rewrite-url"
        | "x-envoy-original-path"
        | "x-envoy-original-host" => Fate::Remove,
        _ if METHOD_OVERRIDES.contains(&name) => Fate::Override,
        // These tell the app who the caller is.
        _ if name.starts_with("tipstaff-") || name.starts_with("x-forwarded-client-cert") => {
            Fate::Remove
        }
        // CGI and its kin read all punctuation as one; nobody honest spells a field above like that.
        _ if name.bytes().any(is_other_hyphen) => match fate(&hyphenated(name)) {
            Fate::Keep => Fate::Keep,
            Fate::Remove | Fate::Override => Fate::Remove,
        },
        _ => Fate::Keep,
    }
}

fn is_other_hyphen(byte: u8) -> bool {
    byte != b'-' && !byte.is_ascii_alphanumeric()
}

fn hyphenated(name: &str) -> String {
    name.replace(|c: char| c != '-' && !c.is_ascii_alphanumeric(), "-")
}

/// Removes from a body's trailers what may not come after the head that was decided on: some apps merge the two.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    let is_removed = |name: &&HeaderName| {
        fate(name.as_str()) != Fate::Keep || [HOST, CONTENT_LENGTH].contains(name)
    };
    let removed: Vec<HeaderName> = trailers.keys().filter(is_removed).cloned().collect();
    for name in removed {
        trailers.remove(name);
    }
}

/// Takes out the method overrides, once guards have seen them.
pub(crate) fn remove_overrides(headers: &mut HeaderMap) {
    for name in METHOD_OVERRIDES {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests;
