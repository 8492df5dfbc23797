//! Host and `:authority`: one reading, for matching and for comparing one with the other.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::Reject;

/// Longest host name, in octets (RFC 1035, section 2.3.4, without the final dot).
const MAX_NAME_BYTES: usize = 253;

/// The port that a host without one means: what callers reach is HTTPS, even where the first hop is plain text.
pub const DEFAULT_PORT: u16 = 443;

/// A canonical `host[:port]` (RFC 9110, section 7.2): case folded, one final dot dropped, IPv6 addresses in the
/// form of RFC 5952. There is no userinfo, no empty label, and nothing that is an IPv4 address to some resolvers
/// and a name to others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host<'a> {
    name: Cow<'a, str>,
    port: Option<u16>,
}

impl<'a> Host<'a> {
    /// Reads the value of a Host field or of `:authority`.
    ///
    /// # Errors
    /// [`Reject::BadHost`].
    pub fn parse(value: &'a [u8]) -> Result<Self, Reject> {
        let value = str::from_utf8(value).map_err(|_| Reject::BadHost)?;
        let (name, port) = match value.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or(Reject::BadHost)?;
                (ipv6(&value[..address.len() + 2], address)?, port)
            }
            None => {
                let (name, port) = value.split_at(value.find(':').unwrap_or(value.len()));
                (registered_name(name)?, port)
            }
        };
        let port = if port.is_empty() {
            None
        } else {
            Some(parse_port(port)?)
        };
        Ok(Self { name, port })
    }

    /// The name without port, for matching; an IPv6 address keeps its brackets.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port, if one was written.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether both name the same origin where `default_port` is meant when none is written.
    pub fn is_same(&self, other: &Host<'_>, default_port: u16) -> bool {
        self.name == other.name
            && self.port.unwrap_or(default_port) == other.port.unwrap_or(default_port)
    }
}

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// The one host of a request that has a Host field, an authority (`:authority`, or the one of an absolute-form
/// target), or both.
///
/// # Errors
/// [`Reject::MissingHost`] when there is neither, [`Reject::BadHost`] when one is malformed and
/// [`Reject::HostMismatch`] when they differ: whichever a backend believes would be the wrong one.
pub fn agree<'a>(
    host: Option<&'a [u8]>,
    authority: Option<&'a [u8]>,
    default_port: u16,
) -> Result<Host<'a>, Reject> {
    let host = host.map(Host::parse).transpose()?;
    let authority = authority.map(Host::parse).transpose()?;
    match (host, authority) {
        (None, None) => Err(Reject::MissingHost),
        (Some(one), None) | (None, Some(one)) => Ok(one),
        (Some(host), Some(authority)) if host.is_same(&authority, default_port) => Ok(authority),
        (Some(_), Some(_)) => Err(Reject::HostMismatch),
    }
}

/// Letters, digits, `-` and `_` in labels between dots: what names in use are made of. RFC 3986 allows more
/// (escapes, `!$&'()*+,;=`), which no service name needs and which parsers read differently.
fn registered_name(name: &str) -> Result<Cow<'_, str>, Reject> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if name.len() > MAX_NAME_BYTES || !name.split('.').all(is_label) {
        return Err(Reject::BadHost);
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if is_number(last) && name.parse::<Ipv4Addr>().is_err() {
        return Err(Reject::BadHost);
    }
    Ok(fold_case(name))
}

/// Whether `inet_aton` could take a name that ends in this label for an address: `127.1`, `0x7f000001`.
fn is_number(label: &str) -> bool {
    let hex = label
        .strip_prefix("0x")
        .or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|byte| byte.is_ascii_digit())
        || hex.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn ipv6<'a>(bracketed: &'a str, address: &str) -> Result<Cow<'a, str>, Reject> {
    let address: Ipv6Addr = address.parse().map_err(|_| Reject::BadHost)?;
    let canonical = format!("[{address}]");
    Ok(if canonical == bracketed {
        Cow::Borrowed(bracketed)
    } else {
        Cow::Owned(canonical)
    })
}

fn parse_port(port: &str) -> Result<u16, Reject> {
    let digits = port.strip_prefix(':').ok_or(Reject::BadHost)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || digits.starts_with('0') {
        return Err(Reject::BadHost);
    }
    digits.parse().map_err(|_| Reject::BadHost)
}

fn fold_case(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests;
