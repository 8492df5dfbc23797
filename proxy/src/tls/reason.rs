//! What went wrong, in words from a closed set.

use rustls::CertificateError;
use std::io;

/// What rustls says went wrong, as a word from a closed set.
pub(crate) fn tls_reason(error: &io::Error) -> &'static str {
    use rustls::Error;
    let Some(error) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
    else {
        return "connection_lost";
    };
    if let Some(refusal) = identity::tls::refusal(error) {
        return refusal.reason();
    }
    match error {
        Error::NoCertificatesPresented => "no_certificate",
        Error::InvalidCertificate(error) => certificate_reason(error),
        Error::AlertReceived(_) => "refused_by_peer",
        Error::NoApplicationProtocol => "no_common_protocol",
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => "not_tls",
        _ => "tls_error",
    }
}

/// Of servers outside the mesh, which rustls verifies.
fn certificate_reason(error: &CertificateError) -> &'static str {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext, UnknownIssuer,
    };
    match error {
        Expired | ExpiredContext { .. } => "certificate_expired",
        NotValidYet | NotValidYetContext { .. } => "certificate_not_yet_valid",
        NotValidForName | NotValidForNameContext { .. } => "certificate_of_another_name",
        UnknownIssuer => "certificate_of_unknown_issuer",
        _ => "bad_certificate",
    }
}
