//! The calls for clients without gRPC, such as curl: JSON (or PEM) in and out, and between the two the very functions that
//! gRPC calls. The description of it, `openapi.json`, is served as well, and held to this code by its tests.
//!
//! Whether a caller is admitted, how long a call may take and what a refusal costs is decided in `connection.rs`, for both
//! ways alike.

mod problem;
#[cfg(test)]
mod tests;

use super::MAX_MESSAGE_BYTES;
use crate::admission::Source;
use crate::api::Api;
use crate::api::refused::Refused;
use crate::proto::certificate_authority_server::CertificateAuthority;
use crate::proto::{Certificate, IssueRequest, RenewRequest};
use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName, HeaderValue,
    TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use identity::pem;
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::body::Body;
use tonic::metadata::MetadataMap;

pub(super) use problem::refuse;

/// The description, for people and generators of clients.
const DESCRIPTION: &str = include_str!("../../proto/openapi.json");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// A chain as files have it (RFC 8555 section 9.1), for callers that ask for it: a shell reads no JSON.
const PEM: HeaderValue = HeaderValue::from_static("application/pem-certificate-chain");
/// With a certificate as PEM: when to ask for the next.
const RENEW_AT: HeaderName = HeaderName::from_static("tipstaff-renew-at-unix-ms");

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Issue,
    Renew,
    Bundle,
    /// The bundle endpoint (SPIFFE Federation section 5.2.2, https_spiffe): anyone may read it.
    SpiffeBundle,
    Description,
}

impl Operation {
    const ALL: [Self; 5] = [
        Self::Issue,
        Self::Renew,
        Self::Bundle,
        Self::SpiffeBundle,
        Self::Description,
    ];

    fn method(self) -> &'static str {
        match self {
            Self::Issue | Self::Renew => "POST",
            Self::Bundle | Self::SpiffeBundle | Self::Description => "GET",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Issue => "/v1/issue",
            Self::Renew => "/v1/renew",
            Self::Bundle => "/v1/bundle",
            Self::SpiffeBundle => "/bundle",
            Self::Description => "/v1/openapi.json",
        }
    }

    /// By the target to the letter: none of the paths has a second form, or takes a query.
    fn asked(method: &Method, target: Option<&str>) -> Result<Self, Refused> {
        let found = Self::ALL
            .into_iter()
            .find(|operation| target == Some(operation.path()))
            .ok_or(Refused::NoSuchPath)?;
        match found.method() {
            allowed if method == allowed => Ok(found),
            allowed => Err(Refused::OtherMethod { allowed }),
        }
    }
}

/// Answers one request of a caller who has been admitted.
pub(super) async fn answer(
    api: &Api,
    source: &Source,
    request: Request<Incoming>,
) -> Response<Body> {
    let has_one_reading = has_one_reading(&request);
    let (parts, body) = request.into_parts();
    let is_head = parts.method == Method::HEAD;
    let target = parts.uri.path_and_query().map(|target| target.as_str());
    let read = async {
        let operation = Operation::asked(&parts.method, target)?;
        if !has_one_reading {
            return Err(Refused::Http);
        }
        Ok(match operation {
            Operation::Issue => Call::Issue(read(&parts.headers, body).await?),
            Operation::Renew => Call::Renew(read(&parts.headers, body).await?),
            Operation::Bundle => Call::Bundle,
            Operation::SpiffeBundle => Call::SpiffeBundle,
            Operation::Description => Call::Description,
        })
    };
    let mut response = match read.await {
        Ok(call) => run(api, call, parts)
            .await
            .unwrap_or_else(|status| problem::of_call(&status)),
        Err(refused) => match source.identity() {
            // As what gRPC's layers refuse of a known caller.
            Some(caller) => problem::said(&refused, &api.audit(caller, "call", &refused).await),
            None => refuse(&refused),
        },
    };
    // RFC 9110 section 9.3.2. hyper sees to it in HTTP/1.1 only.
    if is_head {
        *response.body_mut() = Body::empty();
    }
    response
}

/// A request that has been read.
enum Call {
    Issue(IssueRequest),
    Renew(RenewRequest),
    Bundle,
    SpiffeBundle,
    Description,
}

async fn run(api: &Api, call: Call, parts: Parts) -> Result<Response<Body>, tonic::Status> {
    let form = Form::asked(&parts.headers);
    let extensions = parts.extensions;
    // Who calls is in the extensions, wherever the message came from.
    Ok(match call {
        Call::Issue(message) => {
            let call = tonic::Request::from_parts(MetadataMap::new(), extensions, message);
            let reply = api.issue(call).await?.into_inner();
            form.certificate(&reply, reply.certificate.as_ref())
        }
        Call::Renew(message) => {
            let call = tonic::Request::from_parts(MetadataMap::new(), extensions, message);
            let reply = api.renew(call).await?.into_inner();
            form.certificate(&reply, reply.certificate.as_ref())
        }
        Call::Bundle => match form {
            Form::Json => response(JSON, api.published.json.bytes()),
            Form::Pem => response(PEM, api.published.pem.bytes()),
        },
        Call::SpiffeBundle => response(JSON, api.published.document.bytes()),
        Call::Description => response(JSON, DESCRIPTION),
    })
}

/// Whether nobody between reads the request in another way (RFC 9112 sections 3.2 and 6.3): hyper takes a length beside chunks
/// for none, and any Host or none. What has two readings is refused, and its connection ends.
pub(super) fn has_one_reading(request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    let is_framed = match request.version() {
        Version::HTTP_2 => true,
        Version::HTTP_11 => {
            headers.get_all(HOST).iter().count() == 1 && !headers.contains_key(TRANSFER_ENCODING)
        }
        _ => false,
    };
    is_framed && (request.method() != Method::GET || request.body().is_end_stream())
}

/// The message of a request: one JSON object, of as many bytes as a gRPC message may have.
async fn read<T: DeserializeOwned>(headers: &HeaderMap, body: Incoming) -> Result<T, Refused> {
    if !is_json(headers) {
        return Err(Refused::ContentType);
    }
    // What is announced as too large is not even waited for.
    if body.size_hint().lower() > MAX_MESSAGE_BYTES as u64 {
        return Err(Refused::Oversized);
    }
    let body = Limited::new(body, MAX_MESSAGE_BYTES).collect().await;
    let body = body.map_err(|error| match error.is::<LengthLimitError>() {
        true => Refused::Oversized,
        false => Refused::BrokenOff,
    })?;
    parse(&body.to_bytes())
}

/// Keys that are no fields, or come twice, are errors, as are other forms of a value than the one described. What was found
/// is not repeated: it may be a secret in the wrong place.
fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, Refused> {
    // serde reads a list as the fields in order.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(Refused::Json { line: 1, column: 1 });
    }
    serde_json::from_slice(json).map_err(|error| Refused::Json {
        line: error.line(),
        column: error.column(),
    })
}

/// Whether the body is said to be JSON in UTF-8 (RFC 8259 section 8.1), as it is.
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else {
        return false;
    };
    let Ok(only) = only.to_str() else {
        return false;
    };
    let (media_type, parameters) = only.split_once(';').unwrap_or((only, ""));
    let is_utf8 = ["", "charset=utf-8", "charset=\"utf-8\""]
        .iter()
        .any(|known| parameters.trim().eq_ignore_ascii_case(known));
    let is_plain = !headers.contains_key(CONTENT_ENCODING);
    is_plain && is_utf8 && media_type.trim().eq_ignore_ascii_case("application/json")
}

/// In which form the caller wants what is in certificates.
#[derive(Debug, Clone, Copy)]
enum Form {
    Json,
    Pem,
}

impl Form {
    fn asked(headers: &HeaderMap) -> Self {
        let lists = headers.get_all(ACCEPT).iter();
        let mut ranges = lists
            .filter_map(|list| list.to_str().ok())
            .flat_map(|list| list.split(','));
        match ranges.any(names_pem) {
            true => Self::Pem,
            false => Self::Json,
        }
    }

    fn certificate(
        self,
        reply: &impl Serialize,
        certificate: Option<&Certificate>,
    ) -> Response<Body> {
        let Some(certificate) = certificate.filter(|_| matches!(self, Self::Pem)) else {
            return json(reply);
        };
        let mut response = response(PEM, to_pem(&certificate.chain));
        let renew_at = HeaderValue::from(certificate.renew_at_unix_ms);
        response.headers_mut().insert(RENEW_AT, renew_at);
        response
    }
}

/// Whether a member of `Accept` (RFC 9110 section 12.5.1) is PEM, by its name: what takes anything gets JSON.
fn names_pem(range: &str) -> bool {
    let mut parts = range.split(';').map(str::trim);
    let is_named = parts
        .next()
        .is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(PEM.as_bytes()));
    // What has no weight is what is not wanted (section 12.4.2).
    is_named
        && !parts.any(|parameter| {
            let parameter = parameter.to_ascii_lowercase();
            matches!(&*parameter, "q=0" | "q=0." | "q=0.0" | "q=0.00" | "q=0.000")
        })
}

fn to_pem(chain: &[Vec<u8>]) -> String {
    let chain: Vec<_> = chain
        .iter()
        .map(|der| CertificateDer::from(&**der))
        .collect();
    pem::encode(&chain)
}

fn json(message: &impl Serialize) -> Response<Body> {
    let text = serde_json::to_string(message).expect("a message is texts, numbers and lists");
    response(JSON, text)
}

fn response(content_type: HeaderValue, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body.into())));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
