//! What is revoked as a CRL over HTTP, for verifiers that are no sidecars. Signed, so that it needs no TLS.

use crate::commands::http::{Answer, Limits};
use ca::Authority;
use hyper::{Method, Request, StatusCode};

/// Verifiers ask for it once an hour.
pub(super) const LIMITS: Limits = Limits {
    connections: 64,
    per_address: 8,
};

pub(super) async fn answer<B>(request: Request<B>, authority: &Authority) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/crl") => match authority.crl().await {
            Ok(der) => Answer {
                status: StatusCode::OK,
                // RFC 2585 section 4.2.
                content_type: "application/pkix-crl",
                body: der.into(),
            },
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "no CRL");
                let text = "the CA cannot make its list at present\n";
                Answer::text(StatusCode::SERVICE_UNAVAILABLE, text)
            }
        },
        (&Method::GET, _) => Answer::text(StatusCode::NOT_FOUND, "expected /crl\n"),
        _ => Answer::text(StatusCode::METHOD_NOT_ALLOWED, "expected GET\n"),
    }
}
