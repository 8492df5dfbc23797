//! The workloads: real gRPC streams over the Unix socket, each of which tells when it has something new.

use crate::{Failure, PATIENCE};
use hyper_util::rt::TokioIo;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout_at};
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Streaming};
use tower::service_fn;
use workload::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use workload::proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use workload::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use workload::proto::{
    JwtBundlesRequest, JwtBundlesResponse, X509BundlesRequest, X509BundlesResponse,
    X509svidRequest, X509svidResponse,
};

/// On every so many connections there is one stream of each other kind.
const ONE_IN: usize = 10;
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// As SDS names them.
const CERTIFICATE: &str = "default";
const ROOTS: &str = "ROOTCA";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Svid,
    X509Bundles,
    JwtBundles,
    Sds,
    Delta,
}

/// What a rotation changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Certificate,
    Bundle,
}

impl Kind {
    fn has(self, part: Part) -> bool {
        part == Part::Bundle || matches!(self, Self::Svid | Self::Sds | Self::Delta)
    }
}

/// Hashes of what a message has; `None` for what it says nothing of.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Contents {
    certificate: Option<u64>,
    bundle: Option<u64>,
}

impl Contents {
    fn of(self, part: Part) -> Option<u64> {
        match part {
            Part::Certificate => self.certificate,
            Part::Bundle => self.bundle,
        }
    }
}

fn hash(value: impl Hash) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    Some(hasher.finish())
}

/// One message on one stream.
struct Update {
    stream: usize,
    contents: Contents,
    at: Instant,
}

/// What all streams have.
pub(crate) struct Clients {
    kinds: Vec<Kind>,
    have: Vec<Contents>,
    updates: mpsc::UnboundedReceiver<Update>,
    /// Connections end with these.
    _channels: Vec<Channel>,
}

impl Clients {
    /// Makes `connections` and waits for the first message on each of their streams.
    pub(crate) async fn connect(socket: &Path, connections: usize) -> Result<Self, Failure> {
        first_certificate(socket).await?;
        let (sender, updates) = mpsc::unbounded_channel();
        let (mut kinds, mut channels) = (Vec::new(), Vec::new());
        for number in 0..connections {
            let channel = connect(socket, None).await?;
            let others = [Kind::X509Bundles, Kind::JwtBundles, Kind::Sds, Kind::Delta];
            let others = others.into_iter().filter(|_| number % ONE_IN == 0);
            for kind in std::iter::once(Kind::Svid).chain(others) {
                let place = kinds.len();
                open(kind, channel.clone(), place, sender.clone()).await?;
                kinds.push(kind);
            }
            channels.push(channel);
        }
        let nothing = vec![Contents::default(); kinds.len()];
        let mut clients = Self {
            have: nothing.clone(),
            kinds,
            updates,
            _channels: channels,
        };
        clients.all_differ(Part::Bundle, &nothing).await?;
        clients.all_differ(Part::Certificate, &nothing).await?;
        Ok(clients)
    }

    pub(crate) fn streams(&self) -> usize {
        self.kinds.len()
    }

    /// What each stream has by now.
    pub(crate) fn present(&mut self) -> Vec<Contents> {
        while let Ok(update) = self.updates.try_recv() {
            self.take(&update);
        }
        self.have.clone()
    }

    /// Waits until each stream that says something of `part` has another one than in `before`, and tells when each had.
    pub(crate) async fn all_differ(
        &mut self,
        part: Part,
        before: &[Contents],
    ) -> Result<Vec<Instant>, Failure> {
        let deadline = (Instant::now() + PATIENCE).into();
        let same =
            |have: &[Contents], stream: usize| have[stream].of(part) == before[stream].of(part);
        let concerned = (0..self.kinds.len()).filter(|stream| self.kinds[*stream].has(part));
        let mut left = concerned.filter(|stream| same(&self.have, *stream)).count();
        let mut times = Vec::new();
        while left > 0 {
            let late = |_| format!("{left} streams have no other {part:?}");
            let update = timeout_at(deadline, self.updates.recv())
                .await
                .map_err(late)?;
            let update = update.ok_or("all streams have ended")?;
            let was_same = same(&self.have, update.stream);
            self.take(&update);
            if was_same && !same(&self.have, update.stream) && self.kinds[update.stream].has(part) {
                left -= 1;
                times.push(update.at);
            }
        }
        Ok(times)
    }

    fn take(&mut self, update: &Update) {
        let have = &mut self.have[update.stream];
        have.certificate = update.contents.certificate.or(have.certificate);
        have.bundle = update.contents.bundle.or(have.bundle);
    }
}

/// Waits until there is something to hand out.
async fn first_certificate(socket: &Path) -> Result<(), Failure> {
    let mut api = SpiffeWorkloadApiClient::new(connect(socket, None).await?);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match api.fetch_x509svid(asked(X509svidRequest {})).await {
            Err(status) if status.code() == Code::Unavailable && Instant::now() < deadline => {
                sleep(ASK_AGAIN).await;
            }
            outcome => return Ok(outcome.map(drop)?),
        }
    }
}

/// Over one connection of its own, with this much room for each stream.
async fn connect(socket: &Path, window: Option<u32>) -> Result<Channel, Failure> {
    let socket = socket.to_owned();
    let made = service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost").initial_stream_window_size(window);
    Ok(endpoint.connect_with_connector(made).await?)
}

/// Programs that are stuck: each has asked for its certificate and has no room for a byte of the answer. They hold their
/// connections for as long as they are kept.
pub(crate) async fn stall(socket: &Path, count: usize) -> Result<Vec<impl Sized>, Failure> {
    let mut stalled = Vec::new();
    for _ in 0..count {
        let channel = connect(socket, Some(0)).await?;
        let mut api = SpiffeWorkloadApiClient::new(channel);
        stalled.push(api.fetch_x509svid(asked(X509svidRequest {})).await?);
    }
    Ok(stalled)
}

/// Opens a stream and has what comes on it told.
async fn open(
    kind: Kind,
    channel: Channel,
    stream: usize,
    told: mpsc::UnboundedSender<Update>,
) -> Result<(), Failure> {
    let mut api = SpiffeWorkloadApiClient::new(channel.clone());
    let mut sds = SecretDiscoveryServiceClient::new(channel);
    match kind {
        Kind::Svid => {
            let opened = api.fetch_x509svid(asked(X509svidRequest {})).await?;
            tokio::spawn(tell(opened.into_inner(), stream, told, of_svid));
        }
        Kind::X509Bundles => {
            let opened = api.fetch_x509_bundles(asked(X509BundlesRequest {})).await?;
            tokio::spawn(tell(opened.into_inner(), stream, told, of_bundles));
        }
        Kind::JwtBundles => {
            let opened = api.fetch_jwt_bundles(asked(JwtBundlesRequest {})).await?;
            tokio::spawn(tell(opened.into_inner(), stream, told, of_jwt_bundles));
        }
        Kind::Sds => {
            let request = DiscoveryRequest {
                resource_names: vec![CERTIFICATE.to_owned(), ROOTS.to_owned()],
                ..DiscoveryRequest::default()
            };
            let (said, requests) = mpsc::channel(1);
            said.send(request.clone()).await?;
            let opened = sds.stream_secrets(ReceiverStream::new(requests)).await?;
            let acknowledge = move |response: &DiscoveryResponse| {
                let _ = said.try_send(DiscoveryRequest {
                    version_info: response.version_info.clone(),
                    response_nonce: response.nonce.clone(),
                    ..request.clone()
                });
                of_sds(response)
            };
            tokio::spawn(tell(opened.into_inner(), stream, told, acknowledge));
        }
        Kind::Delta => {
            let (said, requests) = mpsc::channel(1);
            let names = vec![CERTIFICATE.to_owned(), ROOTS.to_owned()];
            said.send(DeltaDiscoveryRequest {
                resource_names_subscribe: names,
                ..DeltaDiscoveryRequest::default()
            })
            .await?;
            let opened = sds.delta_secrets(ReceiverStream::new(requests)).await?;
            let acknowledge = move |response: &DeltaDiscoveryResponse| {
                let _ = said.try_send(DeltaDiscoveryRequest {
                    response_nonce: response.nonce.clone(),
                    ..DeltaDiscoveryRequest::default()
                });
                of_delta(response)
            };
            tokio::spawn(tell(opened.into_inner(), stream, told, acknowledge));
        }
    }
    Ok(())
}

/// Until the stream ends, which those who wait for it notice.
async fn tell<M>(
    mut messages: Streaming<M>,
    stream: usize,
    told: mpsc::UnboundedSender<Update>,
    contents: impl Fn(&M) -> Contents,
) {
    while let Ok(Some(message)) = messages.message().await {
        let update = Update {
            stream,
            at: Instant::now(),
            contents: contents(&message),
        };
        if told.send(update).is_err() {
            return;
        }
    }
}

fn asked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::from_static("true");
    request.metadata_mut().insert("workload.spiffe.io", value);
    request
}

fn of_svid(response: &X509svidResponse) -> Contents {
    let svid = response.svids.first();
    Contents {
        certificate: svid.and_then(|svid| hash(&svid.x509_svid)),
        bundle: svid.and_then(|svid| hash(&svid.bundle)),
    }
}

fn of_bundles(response: &X509BundlesResponse) -> Contents {
    Contents {
        bundle: response.bundles.values().next().and_then(hash),
        ..Contents::default()
    }
}

/// A rotation of roots changes none of these keys, but says that the bundle is another.
fn of_jwt_bundles(_: &JwtBundlesResponse) -> Contents {
    Contents {
        bundle: hash(Instant::now()),
        ..Contents::default()
    }
}

/// In the order in which they were asked for.
fn of_sds(response: &DiscoveryResponse) -> Contents {
    let of = |place: usize| {
        response
            .resources
            .get(place)
            .and_then(|any| hash(&any.value))
    };
    Contents {
        certificate: of(0),
        bundle: of(1),
    }
}

fn of_delta(response: &DeltaDiscoveryResponse) -> Contents {
    let of = |name| {
        let mut resources = response.resources.iter();
        let found = resources.find(|resource| resource.name == name)?;
        hash(&found.version)
    };
    Contents {
        certificate: of(CERTIFICATE),
        bundle: of(ROOTS),
    }
}
