//! Reading single fields of a certificate: each is absent, readable, or an error, and never guessed.

use super::{CertError, MAX_SERIAL_OCTETS};
use crate::SpiffeId;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};
use x509_parser::asn1_rs::Any;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{
    BasicConstraints, ExtendedKeyUsage, GeneralName, KeyUsage, ParsedExtension,
};
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME, Oid,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;

pub(super) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertError> {
    let (rest, cert) = X509Certificate::from_der(der).map_err(|_| CertError::Malformed)?;
    match rest.len() {
        0 => Ok(cert),
        bytes => Err(CertError::TrailingData { bytes }),
    }
}

/// Holds a certificate to nothing but its encoding.
pub(crate) fn check_encoding(der: &[u8]) -> Result<(), CertError> {
    parse(der).map(|_| ())
}

/// The length of the certificate that `der` begins with.
pub(crate) fn encoded_length(der: &[u8]) -> Result<usize, CertError> {
    let (rest, _) = X509Certificate::from_der(der).map_err(|_| CertError::Malformed)?;
    Ok(der.len() - rest.len())
}

/// The URI name as a SPIFFE ID. A name of any kind that cannot be read hides what it says, so it refuses the certificate.
pub(super) fn uri_name(cert: &X509Certificate<'_>) -> Result<Option<SpiffeId>, CertError> {
    let name = "subjectAltName";
    let names = match extension(cert, &OID_X509_EXT_SUBJECT_ALT_NAME, name)? {
        None => return Ok(None),
        Some(ParsedExtension::SubjectAlternativeName(names)) => &names.general_names,
        Some(_) => return Err(CertError::Extension { name }),
    };
    let mut uris = Vec::new();
    for general_name in names {
        match general_name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => return Err(CertError::Extension { name }),
            _ => {}
        }
    }
    match uris[..] {
        [] => Ok(None),
        [uri] => SpiffeId::parse(uri)
            .map(Some)
            .map_err(CertError::NotSpiffeId),
        _ => Err(CertError::SeveralUris { count: uris.len() }),
    }
}

pub(super) fn basic_constraints<'c>(
    cert: &'c X509Certificate<'_>,
) -> Result<Option<&'c BasicConstraints>, CertError> {
    let name = "basicConstraints";
    match extension(cert, &OID_X509_EXT_BASIC_CONSTRAINTS, name)? {
        None => Ok(None),
        Some(ParsedExtension::BasicConstraints(constraints)) => Ok(Some(constraints)),
        Some(_) => Err(CertError::Extension { name }),
    }
}

pub(super) fn key_usage<'c>(
    cert: &'c X509Certificate<'_>,
) -> Result<Option<&'c KeyUsage>, CertError> {
    let name = "keyUsage";
    match extension(cert, &OID_X509_EXT_KEY_USAGE, name)? {
        None => Ok(None),
        Some(ParsedExtension::KeyUsage(usage)) => Ok(Some(usage)),
        Some(_) => Err(CertError::Extension { name }),
    }
}

pub(super) fn extended_key_usage<'c, 'd>(
    cert: &'c X509Certificate<'d>,
) -> Result<Option<&'c ExtendedKeyUsage<'d>>, CertError> {
    let name = "extKeyUsage";
    match extension(cert, &OID_X509_EXT_EXTENDED_KEY_USAGE, name)? {
        None => Ok(None),
        Some(ParsedExtension::ExtendedKeyUsage(usage)) => Ok(Some(usage)),
        Some(_) => Err(CertError::Extension { name }),
    }
}

pub(super) fn serial(cert: &X509Certificate<'_>) -> Result<String, CertError> {
    let octets = cert.raw_serial();
    // DER puts a zero octet before a magnitude whose first bit is set, to keep the integer positive.
    let magnitude = match octets {
        [0, rest @ ..] if !rest.is_empty() => rest,
        _ => octets,
    };
    if magnitude.is_empty() || magnitude.len() > MAX_SERIAL_OCTETS {
        return Err(CertError::Serial {
            octets: magnitude.len(),
        });
    }
    let mut text = String::with_capacity(magnitude.len() * 2);
    for octet in magnitude {
        write!(text, "{octet:02x}").expect("writing to a String cannot fail");
    }
    Ok(text)
}

pub(super) fn system_time(time: ASN1Time) -> Result<SystemTime, CertError> {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let moment = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    moment.ok_or(CertError::Validity)
}

/// The extension's content: `None` only when it is absent, so that one which cannot be read is never taken for that.
fn extension<'c, 'd>(
    cert: &'c X509Certificate<'d>,
    oid: &Oid<'static>,
    name: &'static str,
) -> Result<Option<&'c ParsedExtension<'d>>, CertError> {
    let unreadable = CertError::Extension { name };
    let Some(extension) = cert
        .get_extension_unique(oid)
        .map_err(|_| unreadable.clone())?
    else {
        return Ok(None);
    };
    // The parser stops at the end of the first value; what follows could say something else to another reader.
    match Any::from_der(extension.value) {
        Ok(([], _)) => Ok(Some(extension.parsed_extension())),
        _ => Err(unreadable),
    }
}
