//! Refusals as HTTP says them: the status, and `google.rpc.Status` as JSON with the code, sentence and reason of gRPC.

use super::json;
use crate::api::refused::{REASON_METADATA, RETRY_METADATA, Refused};
use http::header::{ALLOW, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde::Serialize;
use tonic::body::Body;
use tonic::{Code, Status};

/// Says in `reason` what is in [`REASON_METADATA`].
const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";
/// Whose reasons they are.
const DOMAIN: &str = "tipstaff.ca.v1";

#[derive(Serialize)]
struct Problem<'s> {
    code: i32,
    message: &'s str,
    details: [ErrorInfo<'s>; 1],
}

#[derive(Serialize)]
struct ErrorInfo<'s> {
    #[serde(rename = "@type")]
    kind: &'static str,
    reason: &'s str,
    domain: &'static str,
}

/// Of a caller that is not known.
pub(crate) fn refuse(refused: &Refused) -> Response<Body> {
    said(refused, &Status::from(refused))
}

/// As `status`, in which `refused` was said before.
pub(super) fn said(refused: &Refused, status: &Status) -> Response<Body> {
    let code = match refused {
        Refused::OtherMethod { .. } => StatusCode::METHOD_NOT_ALLOWED,
        Refused::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Refused::Oversized => StatusCode::PAYLOAD_TOO_LARGE,
        _ => status_code(status.code()),
    };
    let mut response = problem(code, status);
    if let Refused::OtherMethod { allowed } = refused {
        let allowed = HeaderValue::from_static(allowed);
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

/// What a call of the service was refused with.
pub(super) fn of_call(status: &Status) -> Response<Body> {
    problem(status_code(status.code()), status)
}

/// The HTTP mapping in `google/rpc/code.proto`.
pub(super) fn status_code(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn problem(code: StatusCode, status: &Status) -> Response<Body> {
    let word = status.metadata().get(REASON_METADATA);
    let reason = word.and_then(|word| word.to_str().ok()).unwrap_or_default();
    let mut response = json(&Problem {
        code: status.code().into(),
        message: status.message(),
        details: [ErrorInfo {
            kind: ERROR_INFO,
            reason,
            domain: DOMAIN,
        }],
    });
    *response.status_mut() = code;
    let wait = status.metadata().get(RETRY_METADATA);
    if let Some(wait_ms) = wait.and_then(|wait| wait.to_str().ok()?.parse::<u64>().ok()) {
        let seconds = HeaderValue::from(wait_ms.div_ceil(1000));
        response.headers_mut().insert(RETRY_AFTER, seconds);
    }
    if let Ok(word) = HeaderValue::from_str(reason) {
        let name = HeaderName::from_static(REASON_METADATA);
        response.headers_mut().insert(name, word);
    }
    response
}
