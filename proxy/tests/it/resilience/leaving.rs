//! Endpoints that are gone before anything was sent to them.

use super::*;
use proxy::config::HashKey;

/// A sidecar that takes one connection, and says at the first request that it takes no other.
async fn leaving(authority: &Authority) -> (SocketAddr, Arc<AtomicUsize>) {
    let acceptor = acceptor(authority);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::<AtomicUsize>::default();
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        drop(listener);
        serve(acceptor, stream, Way::Leaves, &seen).await.ok();
    });
    (address, requests)
}

/// The lane is still there for the request that goes on, and the endpoint takes no other lane.
#[tokio::test]
async fn an_endpoint_that_drains_costs_no_request_and_no_retry_while_another_is_well() {
    let authority = Authority::new();
    let (leaving, left) = leaving(&authority).await;
    let (serving, served) = orders(&authority, Way::Serves).await;
    let frontend = with(&authority, &[leaving, serving], |service| {
        service.resilience.hash = Some(HashKey::Path);
        service.timeout = SOON;
    });
    let mut begun = Vec::new();
    while left.load(Ordering::SeqCst) == 0 {
        assert!(begun.len() < 100, "no path leads to the one that drains");
        let mut workload = TcpStream::connect(frontend.outbound()).await.unwrap();
        let request = format!("GET /{} HTTP/1.1\r\nhost: {HOST}\r\n\r\n", begun.len());
        workload.write_all(request.as_bytes()).await.unwrap();
        // By the response head the GOAWAY was read.
        let head = timeout(SOON, head(&mut workload)).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        begun.push(workload);
    }
    let path = format!("/{}", begun.len() - 1);
    let to = frontend.outbound();
    for mut workload in [Caller::workload(to).await, Caller::workload_http2(to).await] {
        for method in ["POST", "GET", "POST"] {
            let request = Request::builder().method(method).uri(&path);
            let reply = workload.send(request.header("host", HOST)).await.unwrap();
            assert_eq!(reply.status, StatusCode::OK, "{method}: {reply:?}");
        }
    }
    assert_eq!(left.load(Ordering::SeqCst), 1);
    assert_eq!(served.load(Ordering::SeqCst), begun.len() - 1 + 6);
    let retries = r#"tipstaff_retries_total{direction="outbound""#;
    assert!(!frontend.metrics().await.contains(retries));
}

#[tokio::test]
async fn one_request_tries_to_reach_no_more_than_four_endpoints() {
    let authority = Authority::new();
    let dialled = Arc::<AtomicUsize>::default();
    let mut endpoints = Vec::new();
    for _ in 0..8 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        endpoints.push(listener.local_addr().unwrap());
        let dialled = Arc::clone(&dialled);
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                dialled.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let frontend = with(&authority, &endpoints, |service| service.timeout = SOON);
    let mut workload = Caller::workload(frontend.outbound()).await;
    let reply = workload.send(post()).await.unwrap();
    assert_ne!(reply.status, StatusCode::OK, "{reply:?}");
    assert_eq!(dialled.load(Ordering::SeqCst), 4);
}
