//! The intermediate that another CA is asked for, and whether what comes back is it.

use super::intermediate;
use crate::csr::PublicKey;
use crate::signer::CaKey;
use identity::{SpiffeId, TrustDomain};
use rcgen::CertificateSigningRequest;
use std::time::SystemTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// The PKCS#10 request for [`intermediate`].
pub(crate) fn intermediate_request(
    trust_domain: &TrustDomain,
    key: &CaKey,
) -> Result<CertificateSigningRequest, rcgen::Error> {
    // A request has no validity.
    let any = super::Validity {
        not_before: SystemTime::UNIX_EPOCH,
        not_after: SystemTime::UNIX_EPOCH,
    };
    let mut params = intermediate(trust_domain, key, any)?;
    // These are the issuer's to choose.
    params.serial_number = None;
    params.use_authority_key_identifier_extension = false;
    params.serialize_request(key)
}

/// What such a request asked for.
pub(crate) struct RequestedIssuer {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) key: PublicKey,
    /// As encoded: leaves name their issuer byte for byte.
    subject: Vec<u8>,
}

/// What is wrong with the certificate that came back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuedError {
    #[error("expected the intermediate's certificate in DER")]
    Malformed,
    #[error("expected the subject of the request, {expected}, found {found}")]
    Subject { expected: String, found: String },
    #[error("expected CA true and path length 0, found {found}")]
    BasicConstraints { found: String },
    #[error("expected the key usages keyCertSign and cRLSign")]
    KeyUsage,
}

impl RequestedIssuer {
    /// `None` when `der` is not a request of the form that [`intermediate_request`] gives.
    pub(crate) fn parse(der: &[u8]) -> Option<Self> {
        let key = PublicKey::from_csr(der).ok()?;
        let (_, request) = X509CertificationRequest::from_der(der).ok()?;
        let mut names = request.requested_extensions()?.filter_map(|extension| {
            let ParsedExtension::SubjectAlternativeName(names) = extension else {
                return None;
            };
            match names.general_names[..] {
                [GeneralName::URI(uri)] => SpiffeId::parse(uri).ok(),
                _ => None,
            }
        });
        Some(Self {
            trust_domain: names.next()?.trust_domain(),
            key,
            subject: request.certification_request_info.subject.as_raw().to_vec(),
        })
    }

    /// Whether `der` is the certificate that was asked for, as far as it can be seen from it alone.
    pub(crate) fn check_issued(&self, der: &[u8]) -> Result<(), IssuedError> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|_| IssuedError::Malformed)?;
        if certificate.subject().as_raw() != self.subject {
            let (_, expected) = x509_parser::x509::X509Name::from_der(&self.subject)
                .map_err(|_| IssuedError::Malformed)?;
            return Err(IssuedError::Subject {
                expected: expected.to_string(),
                found: certificate.subject().to_string(),
            });
        }
        let constraints = certificate.basic_constraints();
        let constraints = constraints.map_err(|_| IssuedError::Malformed)?;
        let found = match constraints.map(|found| (found.value.ca, found.value.path_len_constraint))
        {
            Some((true, Some(0))) => None,
            Some((true, Some(length))) => Some(format!("path length {length}")),
            Some((true, None)) => Some("CA true without a path length".to_owned()),
            Some((false, _)) | None => Some("no CA".to_owned()),
        };
        if let Some(found) = found {
            return Err(IssuedError::BasicConstraints { found });
        }
        match certificate.key_usage() {
            Ok(Some(usage)) if usage.value.key_cert_sign() && usage.value.crl_sign() => Ok(()),
            _ => Err(IssuedError::KeyUsage),
        }
    }
}

/// Whether a root leaves room for an intermediate. Path validation would not say: an anchor's own path length is nothing to
/// it (RFC 5280 section 6.1.1), but is to some verifiers.
pub(crate) fn may_sign_issuers(der: &[u8]) -> bool {
    let Ok((_, root)) = X509Certificate::from_der(der) else {
        return false;
    };
    matches!(root.basic_constraints(), Ok(Some(found)) if found.value.path_len_constraint != Some(0))
}
