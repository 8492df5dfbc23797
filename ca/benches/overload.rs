//! A CA that is asked for ten times what it can issue: `cargo bench -p ca --bench overload`. Fails when a certificate of the
//! fleet expires, or when the load was less than that.
//!
//! The fleet are real clients with certificates of half a minute. The load are callers with certificates of an hour who renew
//! without end and never mind what they are told. The CA works on one call at a time, so that the callers beside it on the
//! same cores can be ten times as fast.

use ca::client::{self, ClientConfig, ClientState, Handles, Keys, Proof};
use ca::config::{InitOptions, KeyProtection, OpenOptions, TtlFloor};
use ca::csr::PublicKey;
use ca::metrics::{Metrics, Reason};
use ca::proto::RenewRequest;
use ca::proto::certificate_authority_client::CertificateAuthorityClient;
use ca::server::{Options, Server};
use ca::store::TokenGrant;
use ca::token::JoinToken;
use ca::{Authority, Request, Requester};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::tls::{client_config, server_name};
use identity::{SpiffeId, Svid, TrustDomain};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls_pki_types::PrivateKeyDer;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use zeroize::Zeroizing;

const TTL: Duration = Duration::from_secs(30);
const FLEET: usize = 150;
const RUN: Duration = Duration::from_secs(90);
const CALIBRATION: Duration = Duration::from_secs(5);
const TIMES: f64 = 10.0;
/// Connections of the load, and calls at once on each.
const CONNECTIONS: usize = 16;
const CALLS: usize = 8;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    // `cargo bench -- --test` wants to know that it starts, not how fast.
    let is_test = std::env::args().any(|argument| argument == "--test");
    let (fleet, run) = match is_test {
        true => (4, Duration::from_secs(5)),
        false => (FLEET, RUN),
    };
    let temporary = tempfile::tempdir()?;
    let ca = Ca::start(temporary.path()).await?;
    let mut sidecars = JoinSet::new();
    for number in 0..fleet {
        let handles = ca.enrol(number, temporary.path()).await?;
        sidecars.spawn(live(handles, Instant::now() + CALIBRATION + run));
    }
    let load = Load::start(&ca).await?;
    let capacity = load.capacity(&ca.metrics).await?;
    println!("capacity: {capacity:.0} certificates a second, with {fleet} sidecars among them");
    let mut granted = load.offer(capacity * TIMES, run).await?;
    granted.sort();
    let offered = load.calls.load(Ordering::Relaxed) as f64 / run.as_secs_f64();
    let refused = ca.metrics.refused(Reason::Overloaded);
    println!(
        "offered: {offered:.0} calls a second, {:.1} times that; {refused} turned away",
        offered / capacity
    );

    println!(
        "whom of these it served: p50 {:.1?}, p99 {:.1?}",
        part_of(&granted, 0.5),
        part_of(&granted, 0.99)
    );

    let mut left = Vec::new();
    while let Some(lived) = sidecars.join_next().await {
        left.extend(lived??);
    }
    left.sort();
    println!(
        "{} renewals of the fleet, none too late; of the {TTL:?} were left: least {:.1?}, p1 {:.1?}, p50 {:.1?}",
        left.len(),
        part_of(&left, 0.0),
        part_of(&left, 0.01),
        part_of(&left, 0.5),
    );
    if !is_test && offered < capacity * TIMES * 0.95 {
        return Err("the load was less than ten times the capacity".into());
    }
    Ok(())
}

/// Of sorted times.
fn part_of(times: &[Duration], part: f64) -> Duration {
    let at = (times.len().saturating_sub(1) as f64 * part) as usize;
    times.get(at).copied().unwrap_or_default()
}

/// What each certificate had left when the next one came.
///
/// # Errors
/// When one ended before.
async fn live(handles: Handles, until: Instant) -> Result<Vec<Duration>, Failure> {
    let (mut svid, mut left) = (handles.svid.clone(), Vec::new());
    let mut end: Option<SystemTime> = None;
    let until = tokio::time::sleep_until(until.into());
    tokio::pin!(until);
    loop {
        tokio::select! {
            changed = svid.changed() => changed?,
            () = &mut until => return Ok(left),
        }
        if let ClientState::Expired { error, .. } = &*handles.state.borrow() {
            return Err(format!("a certificate has expired: {error}").into());
        }
        let present = svid
            .borrow_and_update()
            .as_ref()
            .map(|svid| svid.leaf().not_after);
        if let Some(end) = end {
            let rest = end.duration_since(SystemTime::now());
            left.push(rest.map_err(|_| "a certificate has expired")?);
        }
        end = present;
    }
}

struct Ca {
    authority: Arc<Authority>,
    metrics: Arc<Metrics>,
    address: SocketAddr,
    stop: CancellationToken,
}

impl Ca {
    async fn start(folder: &Path) -> Result<Self, Failure> {
        let directory = folder.join("ca");
        let domain = TrustDomain::parse("bench.test")?;
        let init = InitOptions::new(domain, KeyProtection::InsecurePlaintext);
        ca::init(&directory, &init)?;
        let open = OpenOptions {
            ttl_floor: TtlFloor::AllowShortTtlForTests,
            ..OpenOptions::default()
        };
        let authority = Arc::new(Authority::open(&directory, &open)?);
        let options = Options {
            certificates_per_minute: u32::MAX,
            certificates_per_minute_per_address: u32::MAX,
            issued_at_once: 1,
            waiting: CONNECTIONS * CALLS / 4,
            ..Options::default()
        };
        let server = Server::bind(Arc::clone(&authority), "127.0.0.1:0".parse()?, options).await?;
        let (metrics, address) = (server.metrics(), server.address());
        let stop = CancellationToken::new();
        tokio::spawn(server.run(stop.clone().cancelled_owned()));
        Ok(Self {
            authority,
            metrics,
            address,
            stop,
        })
    }

    async fn enrol(&self, number: usize, folder: &Path) -> Result<Handles, Failure> {
        let id = SpiffeId::parse(&format!("spiffe://bench.test/fleet/{number}"))?;
        let token = JoinToken::generate();
        let now = SystemTime::now();
        let grant = TokenGrant {
            spiffe_id: id.clone(),
            created_at: now,
            expires_at: now + Duration::from_secs(3600),
            ttl: None,
        };
        self.authority.store().create_token(&token, grant).await?;
        let handles = client::start(ClientConfig {
            endpoint: format!("https://{}", self.address),
            bundle: (**self.authority.bundle().borrow()).clone(),
            spiffe_id: id,
            proof: Proof::Enrolment {
                key_path: folder.join(number.to_string()),
                join_token: Some(Zeroizing::new(token.reveal().to_string())),
            },
            ttl: Some(TTL),
            keys: Keys::Kept,
        })?;
        handles.svid.clone().wait_for(Option::is_some).await?;
        Ok(handles)
    }

    /// A certificate of an hour.
    async fn long(&self) -> Result<Svid, Failure> {
        let key = KeyPair::generate()?;
        let issued = self.authority.issue(Request {
            id: SpiffeId::parse("spiffe://bench.test/load")?,
            public_key: PublicKey::from_spki(&key.subject_public_key_info())?,
            ttl: None,
            until: None,
            requester: Requester::Operator,
        });
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Ok(Svid::new(issued.await?.chain, key)?)
    }

    async fn connect(&self, svid: &Svid) -> Result<Calls, Failure> {
        let bundle = Arc::clone(&self.authority.bundle().borrow());
        let ca = SpiffeId::ca_server(bundle.trust_domain());
        let config = Arc::new(client_config(Some(svid), Arc::new(bundle), ca, &[b"h2"]));
        let socket = TcpStream::connect(self.address).await?;
        socket.set_nodelay(true)?;
        let stream = tokio_rustls::TlsConnector::from(config)
            .connect(server_name(), socket)
            .await?;
        let (requests, driver) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        let origin = http::Uri::from_static("https://ca.invalid");
        Ok(CertificateAuthorityClient::with_origin(
            Transport(requests),
            origin,
        ))
    }
}

impl Drop for Ca {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Callers who are in no hurry, and do not behave so.
struct Load {
    connections: Vec<Calls>,
    csr: Vec<u8>,
    calls: Arc<AtomicU64>,
}

impl Load {
    async fn start(ca: &Ca) -> Result<Self, Failure> {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(ca.connect(&ca.long().await?).await?);
        }
        // The same key each time, as if each reply were lost.
        let csr = CertificateParams::default().serialize_request(&KeyPair::generate()?)?;
        Ok(Self {
            connections,
            csr: csr.der().to_vec(),
            calls: Arc::default(),
        })
    }

    /// What the CA issues when there is always somebody waiting.
    async fn capacity(&self, metrics: &Metrics) -> Result<f64, Failure> {
        let issued = || metrics.issued(ca::metrics::Call::Renew);
        let before = issued();
        self.call(1, None, CALIBRATION).await?;
        self.calls.store(0, Ordering::Relaxed);
        Ok((issued() - before) as f64 / CALIBRATION.as_secs_f64())
    }

    async fn offer(&self, rate: f64, run: Duration) -> Result<Vec<Duration>, Failure> {
        let callers = (CONNECTIONS * CALLS) as f64;
        let pause = Duration::from_secs_f64(callers / rate);
        self.call(CALLS, Some(pause), run).await
    }

    /// So many callers on each connection, each with a call begun every `pause`, or when the last one is answered. Gives how
    /// long those took that were granted.
    async fn call(
        &self,
        callers: usize,
        pause: Option<Duration>,
        run: Duration,
    ) -> Result<Vec<Duration>, Failure> {
        let until = Instant::now() + run;
        let mut all = JoinSet::new();
        for calls in &self.connections {
            for _ in 0..callers {
                let (mut calls, csr) = (calls.clone(), self.csr.clone());
                let counted = Arc::clone(&self.calls);
                all.spawn(async move {
                    let (mut due, mut granted) = (Instant::now(), Vec::new());
                    while Instant::now() < until {
                        let request = RenewRequest {
                            csr: csr.clone(),
                            ..RenewRequest::default()
                        };
                        let asked = Instant::now();
                        if calls.renew(request).await.is_ok() {
                            granted.push(asked.elapsed());
                        }
                        counted.fetch_add(1, Ordering::Relaxed);
                        if let Some(pause) = pause {
                            due += pause;
                            tokio::time::sleep_until(due.into()).await;
                        }
                    }
                    granted
                });
            }
        }
        let mut granted = Vec::new();
        while let Some(ended) = all.join_next().await {
            granted.extend(ended?);
        }
        Ok(granted)
    }
}

type Calls = CertificateAuthorityClient<Transport>;

#[derive(Clone)]
struct Transport(SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Transport {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
