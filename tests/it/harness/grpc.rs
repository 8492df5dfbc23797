//! A gRPC app and its callers, tonic's client and server, with messages that need no generated code.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::client;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::tokio_stream::{self, Stream, StreamExt};
use tonic::codegen::{BoxFuture, BoxStream, Service, http};
use tonic::metadata::MetadataValue;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::service_fn;

/// All octets there are: in metadata whose name ends in `-bin`.
pub(crate) const OCTETS: [u8; 256] = {
    let mut octets = [0; 256];
    let mut n = 0;
    while n < 256 {
        octets[n] = n as u8;
        n += 1;
    }
    octets
};
/// What an error says, not all of it ASCII.
pub(crate) const REFUSAL: &str = "nicht heute, 100 % sicher: ✗";

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Note {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
}

impl Note {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }
}

/// google.rpc.Status, as it travels in `grpc-status-details-bin`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Details {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) details: Vec<Note>,
}

impl Details {
    pub(crate) fn of_refusal() -> Self {
        Self {
            code: Code::FailedPrecondition as i32,
            message: REFUSAL.to_owned(),
            details: vec![Note::new("the first"), Note::new("the second".repeat(50))],
        }
    }
}

/// The app's side; ends with the runtime it was started in.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    /// Of each call of `Wait`: the time that it was given when it came, and `ended` when it was given up.
    pub(crate) waits: mpsc::UnboundedReceiver<String>,
}

impl App {
    pub(crate) fn start() -> Self {
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let incoming = TcpIncoming::bind(any).expect("a free port");
        let address = incoming.local_addr().expect("an address");
        let (tell, waits) = mpsc::unbounded_channel();
        tokio::spawn(Server::builder().serve_with_incoming(Orders { tell }, incoming));
        Self { address, waits }
    }
}

#[derive(Debug, Clone)]
struct Orders {
    tell: mpsc::UnboundedSender<String>,
}

impl Service<http::Request<Body>> for Orders {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let orders = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Note, Note>::default());
            let path = request.uri().path().to_owned();
            Ok(match path.strip_prefix("/shop.v1.Orders/") {
                Some("Get") => grpc.unary(service_fn(get), request).await,
                Some("List") => grpc.server_streaming(service_fn(list), request).await,
                Some("Total") => grpc.client_streaming(service_fn(total), request).await,
                Some("Talk") => grpc.streaming(service_fn(talk), request).await,
                Some("Fail") => grpc.unary(service_fn(fail), request).await,
                Some("Wait") => {
                    let wait = service_fn(move |request| wait(request, orders.tell.clone()));
                    grpc.unary(wait, request).await
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// What the caller said of itself is told back before the first message.
async fn get(request: Request<Note>) -> Result<Response<Note>, Status> {
    let said = request.metadata();
    let missing = || Status::invalid_argument("expected metadata");
    let (asked_by, octets) = (
        said.get("asked-by").cloned().ok_or_else(missing)?,
        said.get_bin("asked-bin").cloned().ok_or_else(missing)?,
    );
    let mut response = Response::new(request.into_inner());
    response.metadata_mut().insert("begun-for", asked_by);
    response.metadata_mut().insert_bin("begun-bin", octets);
    Ok(response)
}

async fn list(request: Request<Note>) -> Result<Response<BoxStream<Note>>, Status> {
    let count = request.into_inner().text.parse::<u32>();
    let count = count.map_err(|_| Status::invalid_argument("expected a number"))?;
    let notes = (0..count).map(|n| Ok(Note::new(n.to_string())));
    Ok(Response::new(Box::pin(tokio_stream::iter(notes))))
}

async fn total(request: Request<Streaming<Note>>) -> Result<Response<Note>, Status> {
    let (mut notes, mut sum) = (request.into_inner(), 0);
    while let Some(note) = notes.message().await? {
        sum += note.text.len();
    }
    Ok(Response::new(Note::new(sum.to_string())))
}

/// Says back what it hears until it hears `enough`, or fails at `fail`.
async fn talk(request: Request<Streaming<Note>>) -> Result<Response<BoxStream<Note>>, Status> {
    let (say, said) = mpsc::channel(1);
    let mut notes = request.into_inner();
    tokio::spawn(async move {
        while let Ok(Some(note)) = notes.message().await {
            let answer = match note.text.as_str() {
                "fail" => Err(refusal()),
                _ => Ok(note.clone()),
            };
            if say.send(answer).await.is_err() || note.text == "enough" || note.text == "fail" {
                return;
            }
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(said))))
}

async fn fail(_: Request<Note>) -> Result<Response<Note>, Status> {
    Err(refusal())
}

fn refusal() -> Status {
    let details = prost::Message::encode_to_vec(&Details::of_refusal()).into();
    let mut status = Status::with_details(Code::FailedPrecondition, REFUSAL, details);
    let octets = MetadataValue::from_bytes(&OCTETS);
    status.metadata_mut().insert_bin("ended-bin", octets);
    status
}

async fn wait(
    request: Request<Note>,
    tell: mpsc::UnboundedSender<String>,
) -> Result<Response<Note>, Status> {
    struct Ended(mpsc::UnboundedSender<String>);
    impl Drop for Ended {
        fn drop(&mut self) {
            // A test that has seen enough is gone.
            self.0.send("ended".to_owned()).ok();
        }
    }
    let given = request.metadata().get("grpc-timeout");
    let given = given.map_or("", |given| given.to_str().unwrap_or("?"));
    tell.send(given.to_owned()).ok();
    let _ended = Ended(tell);
    std::future::pending().await
}

/// The callers' side: a workload's channel to its sidecar.
#[derive(Debug, Clone)]
pub(crate) struct Caller(client::Grpc<Channel>);

impl Caller {
    /// Calls the service that the sidecar knows as `authority`.
    pub(crate) async fn connect(outbound: SocketAddr, authority: &str) -> Self {
        let origin = format!("http://{authority}").parse().expect("a URI");
        let endpoint = Endpoint::from_shared(format!("http://{outbound}")).expect("a URI");
        let channel = endpoint.origin(origin).connect().await.expect("a channel");
        Self(client::Grpc::new(channel))
    }

    pub(crate) async fn unary(
        &mut self,
        method: &str,
        request: Request<Note>,
    ) -> Result<Response<Note>, Status> {
        self.ready().await?;
        let codec = ProstCodec::default();
        self.0.unary(request, path(method), codec).await
    }

    pub(crate) async fn list(&mut self, count: u32) -> Result<Vec<String>, Status> {
        self.ready().await?;
        let request = Request::new(Note::new(count.to_string()));
        let codec = ProstCodec::<Note, Note>::default();
        let notes = self
            .0
            .server_streaming(request, path("List"), codec)
            .await?;
        let texts = notes.into_inner().map(|note| note.map(|note| note.text));
        texts.collect().await
    }

    pub(crate) async fn total(
        &mut self,
        notes: impl Stream<Item = Note> + Send + 'static,
    ) -> Result<String, Status> {
        self.ready().await?;
        let codec = ProstCodec::<Note, Note>::default();
        let total = self
            .0
            .client_streaming(Request::new(notes), path("Total"), codec)
            .await?;
        Ok(total.into_inner().text)
    }

    /// An open call of `Talk`.
    pub(crate) async fn talk(&mut self) -> Result<Talk, Status> {
        self.talk_with(|_| {}).await
    }

    /// The same, with what `prepare` does to the request.
    pub(crate) async fn talk_with(
        &mut self,
        prepare: impl FnOnce(&mut Request<ReceiverStream<Note>>),
    ) -> Result<Talk, Status> {
        self.ready().await?;
        let (say, said) = mpsc::channel(1);
        let mut request = Request::new(ReceiverStream::new(said));
        prepare(&mut request);
        let codec = ProstCodec::default();
        let response = self.0.streaming(request, path("Talk"), codec).await?;
        let hear = response.into_inner();
        Ok(Talk { say, hear })
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.0
            .ready()
            .await
            .map_err(|error| Status::unavailable(format!("the channel is not ready: {error:?}")))
    }
}

fn path(method: &str) -> http::uri::PathAndQuery {
    let path = format!("/shop.v1.Orders/{method}");
    path.parse().expect("a path")
}

/// Both directions of a call that goes on. Ends for the app when it is dropped.
#[derive(Debug)]
pub(crate) struct Talk {
    say: mpsc::Sender<Note>,
    hear: Streaming<Note>,
}

impl Talk {
    /// What is heard after `text` was said; `None` once the app has ended the call well.
    pub(crate) async fn turn(&mut self, text: &str) -> Result<Option<String>, Status> {
        // The app may have ended the call: then it says how.
        self.say.send(Note::new(text)).await.ok();
        self.hear().await
    }

    pub(crate) async fn hear(&mut self) -> Result<Option<String>, Status> {
        let heard = self.hear.message().await?;
        Ok(heard.map(|note| note.text))
    }
}
