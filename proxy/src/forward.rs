//! Sends a request that may go on, and fits the response to the hop back. Inbound it takes a [`Permit`]: forwarding
//! what nobody allowed does not compile.

use crate::authorize::Permit;
use crate::config::Endpoint;
use crate::error::Failure;
use crate::exchange::{Body, Exchange};
use crate::normalize::{Normal, remove_overrides};
use crate::peer::Peer;
use crate::respond::{self, DECISION_ID, REJECTED};
use crate::upstream::http2::{Lanes, Ready, Remote};
use crate::upstream::{Deadlines, Lease, RequestBody, http1, is_grpc};
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{self, Authority, Scheme};
use http::{HeaderMap, Request, Response, StatusCode, Uri, Version, request};
use http_body::Body as _;
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::Duration;

/// The caller's certificate, in Envoy's format.
const FORWARDED_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// The caller's SPIFFE ID.
const PEER: HeaderName = HeaderName::from_static("tipstaff-peer");

/// The workload of this sidecar, as one worker reaches it.
#[derive(Debug)]
pub(crate) struct App {
    name: Arc<str>,
    pub(crate) http1: Arc<http1::Pool>,
    /// For gRPC, whose trailers HTTP/1.1 does not carry well.
    http2: Arc<Lanes>,
}

impl App {
    pub(crate) fn new(endpoint: &Endpoint) -> Arc<Self> {
        Arc::new(Self {
            name: endpoint.to_string().into(),
            http1: http1::Pool::new(endpoint.clone()),
            http2: Lanes::new(endpoint.clone(), Remote::App),
        })
    }
}

/// A response head with what it came on.
pub(crate) struct Answered {
    response: Response<Incoming>,
    lease: Lease,
    idle: Duration,
}

/// Sends an allowed request to the app, in the protocol that the caller's request is in.
pub(crate) async fn to_app(
    _permit: Permit<'_>,
    request: Box<Request<Incoming>>,
    normal: &Normal,
    peer: &Peer,
    app: &App,
    deadlines: Deadlines,
    exchange: &mut Exchange,
) -> Result<Answered, Failure> {
    let request = for_app(request, normal, peer, app, deadlines, exchange);
    let (response, lease) = if request.version() == Version::HTTP_2 {
        let ready = app.http2.ready(deadlines.connect).await?;
        let (response, stream) = app.http2.send(ready, request, deadlines).await?;
        (response, Lease::Http2(stream))
    } else {
        let (response, lease) = app.http1.send(request, deadlines).await?;
        (response, Lease::Http1(lease))
    };
    Answered::new(without_ours(response), lease, deadlines)
}

/// The request as the app gets it: with the caller's identity, in HTTP/2 if it is gRPC.
fn for_app(
    request: Box<Request<Incoming>>,
    normal: &Normal,
    peer: &Peer,
    app: &App,
    deadlines: Deadlines,
    exchange: &mut Exchange,
) -> Box<Request<RequestBody>> {
    let (mut head, body) = request.into_parts();
    let is_grpc = is_grpc(&head.method, &head.headers);
    let body = RequestBody::new(body, deadlines, is_grpc);
    exchange.forwarded(Arc::clone(&app.name), body.upload());
    if normal.has_override {
        remove_overrides(&mut head.headers);
    }
    head.headers.insert(FORWARDED_CERT, peer.forwarded_cert());
    head.headers.insert(PEER, peer.header());
    if is_grpc {
        to_http2(&mut head, Scheme::HTTP);
    } else {
        head.headers.remove(TE);
        head.version = Version::HTTP_11;
        // Without either field hyper takes a GET for one without a body and would drop what the caller sent.
        if !body.is_end_stream() && !head.headers.contains_key(CONTENT_LENGTH) {
            head.headers
                .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    Box::new(Request::from_parts(head, body))
}

/// Sends a request on a connection to the sidecar of a service.
pub(crate) async fn to_service(
    request: Box<Request<Incoming>>,
    lanes: &Arc<Lanes>,
    ready: Ready,
    deadlines: Deadlines,
    exchange: &mut Exchange,
) -> Result<Answered, Failure> {
    let request = for_service(request, lanes, deadlines, exchange);
    let (response, stream) = lanes.send(ready, request, deadlines).await?;
    Answered::new(response, Lease::Http2(stream), deadlines)
}

fn for_service(
    request: Box<Request<Incoming>>,
    lanes: &Lanes,
    deadlines: Deadlines,
    exchange: &mut Exchange,
) -> Box<Request<RequestBody>> {
    let (mut head, body) = request.into_parts();
    let body = RequestBody::new(body, deadlines, is_grpc(&head.method, &head.headers));
    exchange.forwarded(Arc::clone(lanes.name()), body.upload());
    to_http2(&mut head, Scheme::HTTPS);
    Box::new(Request::from_parts(head, body))
}

impl Answered {
    fn new(
        response: Response<Incoming>,
        lease: Lease,
        deadlines: Deadlines,
    ) -> Result<Self, Failure> {
        // We never ask to upgrade; after a 101 the caller would take the app's next bytes for anything at all.
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failure::UnaskedUpgrade);
        }
        Ok(Self {
            response,
            lease,
            idle: deadlines.idle,
        })
    }

    /// The response for the caller: without the fields of the hop it came over, recorded to its end.
    pub(crate) fn into_response(
        self,
        version: Version,
        mut exchange: Box<Exchange>,
    ) -> Response<Body> {
        let (mut head, body) = self.response.into_parts();
        strip(&mut head.headers);
        // Only of a sidecar, which has proven who it is: what an app says in our name is not passed on.
        if head.headers.remove(REJECTED).is_some() {
            respond::reject(&mut head.headers, version);
        }
        exchange.answered(head.status.as_u16());
        let body = Body::upstream(body, self.lease, self.idle, exchange);
        Response::from_parts(head, body)
    }
}

/// What only a sidecar says is taken out of an app's response.
fn without_ours(mut response: Response<Incoming>) -> Response<Incoming> {
    const OURS: [HeaderName; 2] = [DECISION_ID, REJECTED];
    let headers = response.headers_mut();
    if headers.keys().any(|name| OURS.contains(name)) {
        for name in OURS {
            headers.remove(name);
        }
    }
    response
}

/// HTTP/2 clients take scheme and authority from the URI. Host was made canonical, so it can be an authority; if it could
/// not, the request would go without and be refused.
fn to_http2(head: &mut request::Parts, scheme: Scheme) {
    let host = head.headers.remove(HOST);
    let mut parts = uri::Parts::default();
    parts.path_and_query = std::mem::take(&mut head.uri).into_parts().path_and_query;
    parts.authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    parts.scheme = Some(scheme);
    head.uri = Uri::from_parts(parts).unwrap_or_default();
    head.version = Version::HTTP_2;
}

/// Fields of one hop (RFC 9110 section 7.6.1), besides those that Connection lists.
const HOP: [HeaderName; 5] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Removes the fields of the hop that a response came over.
fn strip(headers: &mut HeaderMap) {
    // Looking is cheaper than removing in vain, and responses over HTTP/2 have none of them.
    if !headers.keys().any(|name| HOP.contains(name)) {
        return;
    }
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in listed.into_iter().chain(HOP) {
        headers.remove(name);
    }
}
