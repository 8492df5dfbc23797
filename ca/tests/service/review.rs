//! TokenReview, against an API server that says whatever it is told to.

use crate::attest::{clusters, patient};
use crate::harness::{CART, Ca, LeafKey};
use crate::issuer::{AUDIENCE, Published, Signer, claims, now, request, with};
use bytes::Bytes;
use ca::attest::fetch::Server;
use ca::attest::kubernetes::Identities;
use ca::attest::kubernetes::review::ReviewOptions;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::{Code, Status};

/// Status and body of every answer, until they are changed.
type Answer = Arc<Mutex<(StatusCode, String)>>;

struct ApiServer {
    address: SocketAddr,
    answer: Answer,
    asked: Arc<AtomicUsize>,
    folder: TempDir,
}

impl ApiServer {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.crt"), certificate.pem()).unwrap();
        std::fs::write(folder.path().join("token"), "own token\n").unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = config.with_single_cert(vec![certificate.der().clone()], key);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            answer: Arc::new(Mutex::new((StatusCode::CREATED, confirmed().to_string()))),
            asked: Arc::default(),
            folder,
        };
        let tls = TlsAcceptor::from(Arc::new(config.unwrap()));
        tokio::spawn(serve(
            listener,
            tls,
            Arc::clone(&server.answer),
            Arc::clone(&server.asked),
        ));
        server
    }

    fn say(&self, status: StatusCode, body: String) {
        *self.answer.lock().unwrap() = (status, body);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// A CA that asks this server about the tokens of one issuer.
    async fn ca(&self, published: &Published) -> Ca {
        let mut cluster = published.cluster("prod", Identities::ServiceAccount);
        cluster.review = Some(ReviewOptions {
            server: Server {
                url: format!("https://{}", self.address).parse().unwrap(),
                ca_file: self.folder.path().join("ca.crt"),
                token_file: Some(self.folder.path().join("token")),
            },
        });
        Ca::start_believing(clusters(vec![cluster]).await, patient()).await
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, answer: Answer, asked: Arc<AtomicUsize>) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (tls, answer, asked) = (tls.clone(), Arc::clone(&answer), Arc::clone(&asked));
        tokio::spawn(async move {
            // Whoever does not like our certificate goes away.
            let Ok(stream) = tls.accept(socket).await else {
                return;
            };
            let service = service_fn(|request: Request<Incoming>| {
                asked.fetch_add(1, Ordering::SeqCst);
                let (status, body) = answer.lock().unwrap().clone();
                async move {
                    check(request).await;
                    let mut response = Response::new(Full::new(Bytes::from(body)));
                    *response.status_mut() = status;
                    Ok::<_, std::convert::Infallible>(response)
                }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let _ = connection.await;
        });
    }
}

/// What a real API server would refuse.
async fn check(request: Request<Incoming>) {
    assert_eq!(
        request.uri().path(),
        "/apis/authentication.k8s.io/v1/tokenreviews"
    );
    assert_eq!(request.headers()["authorization"], "Bearer own token");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["kind"], "TokenReview");
    assert_eq!(body["spec"]["audiences"], json!([AUDIENCE]));
    assert!(body["spec"]["token"].is_string());
}

/// What the cluster says of the pod of [`claims`].
fn confirmed() -> Value {
    json!({"status": {
        "authenticated": true,
        "audiences": [AUDIENCE],
        "user": {
            "username": "system:serviceaccount:shop:cart",
            "uid": "5b4e3f52-0000-4000-8000-000000000001",
            "extra": {"authentication.kubernetes.io/pod-uid": ["81c7a2b0-0000-4000-8000-000000000002"]},
        },
    }})
}

async fn ask(ca: &Ca, token: &str) -> Result<(), Status> {
    let request = request(CART, &LeafKey::new(), token);
    ca.connect(None).await.issue(request).await.map(drop)
}

/// Tokens that differ, since answers are kept for a while.
fn token(signer: &Signer, number: u64) -> String {
    signer.token(&with("/exp", json!(now() + 600 + number)))
}

#[tokio::test]
async fn many_calls_with_one_token_are_one_question() {
    let (signer, server) = (Signer::p256("a"), ApiServer::start().await);
    let ca = server.ca(&Published::new(&[&signer])).await;
    let token = signer.token(&claims());
    let calls = (0..20).map(|_| ask(&ca, &token));
    for answer in futures_util::future::join_all(calls).await {
        answer.unwrap();
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn what_the_cluster_does_not_confirm_word_for_word_is_refused() {
    let (signer, server) = (Signer::p256("a"), ApiServer::start().await);
    let ca = server.ca(&Published::new(&[&signer])).await;
    let pod_uid = "/status/user/extra/authentication.kubernetes.io~1pod-uid";
    let changes = [
        ("/status/authenticated", json!(false)),
        ("/status/audiences", json!([])),
        ("/status/audiences", json!(["vault"])),
        (
            "/status/user/username",
            json!("system:serviceaccount:bank:cart"),
        ),
        ("/status/user/uid", json!("another")),
        ("/status/user/extra", json!({})),
        (pod_uid, json!(["another"])),
        (pod_uid, json!([])),
        ("/status", json!({})),
    ];
    for (number, (pointer, value)) in (0..).zip(changes) {
        let mut answer = confirmed();
        *answer.pointer_mut(pointer).unwrap() = value.clone();
        server.say(StatusCode::CREATED, answer.to_string());
        let status = ask(&ca, &token(&signer, number)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{pointer} {value}");
        assert!(status.message().contains("is gone"), "{status:?}");
    }
}

#[tokio::test]
async fn without_an_answer_nothing_is_issued_and_the_next_call_asks_again() {
    let (signer, server) = (Signer::p256("a"), ApiServer::start().await);
    let ca = server.ca(&Published::new(&[&signer])).await;
    let token = signer.token(&claims());
    for (status, body) in [
        (StatusCode::INTERNAL_SERVER_ERROR, confirmed().to_string()),
        (StatusCode::FOUND, confirmed().to_string()),
        (StatusCode::CREATED, "{".to_owned()),
        (StatusCode::CREATED, " ".repeat(100_000)),
    ] {
        server.say(status, body);
        let refused = ask(&ca, &token).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    }
    server.say(StatusCode::CREATED, confirmed().to_string());
    ask(&ca, &token).await.unwrap();
    assert_eq!(server.asked(), 5);
}

#[tokio::test]
async fn a_server_that_the_named_authority_does_not_vouch_for_is_not_asked() {
    let (signer, server) = (Signer::p256("a"), ApiServer::start().await);
    let ca = server.ca(&Published::new(&[&signer])).await;
    let other = ApiServer::start().await;
    let foreign = other.folder.path().join("ca.crt");
    std::fs::copy(foreign, server.folder.path().join("ca.crt")).unwrap();
    let refused = ask(&ca, &signer.token(&claims())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn a_token_that_does_not_hold_up_by_itself_is_not_asked_about() {
    let (signer, server) = (Signer::p256("a"), ApiServer::start().await);
    let ca = server.ca(&Published::new(&[&signer])).await;
    let forged = Signer::p256("a").token(&claims());
    for token in [forged, signer.token(&with("/exp", json!(now() - 60)))] {
        let refused = ask(&ca, &token).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    }
    assert_eq!(server.asked(), 0);
}
