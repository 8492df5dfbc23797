//! Endpoints that are left alone, and those that have enough to do.

use super::*;
use crate::harness::Reply;
use proxy::config::Breaker;

/// Long enough to be seen.
const LONG: Duration = Duration::from_secs(30);

fn breaker(failures: u32, rest: Duration) -> impl FnOnce(&mut Service) {
    move |service| service.resilience.breaker = Some(Breaker { failures, rest })
}

fn refused(reply: &Reply, reason: &str) -> bool {
    reply.status == StatusCode::SERVICE_UNAVAILABLE
        && reply.header("retry-after") == "1"
        && reply.body.contains(reason)
}

/// A request is on record a moment after its answer has left.
async fn counted(frontend: &Sidecar, line: &str) {
    let is_there = async {
        while !frontend.metrics().await.contains(line) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let is_there = timeout(SOON, is_there).await;
    is_there.unwrap_or_else(|_| panic!("expected {line}"));
}

#[tokio::test]
async fn a_service_whose_only_endpoint_fails_is_left_alone_and_says_so_at_once() {
    for way in [Way::Fails, Way::Cuts, Way::FailsCalls] {
        let authority = Authority::new();
        let (failing, asked) = orders(&authority, way).await;
        let frontend = with(&authority, &[failing], breaker(5, LONG));
        let mut workload = Caller::workload(frontend.outbound()).await;
        for _ in 0..5 {
            let reply = workload.send(post()).await.unwrap();
            assert!(!refused(&reply, "circuit_open"), "{way:?}: {reply:?}");
        }
        for _ in 0..20 {
            let reply = workload.send(post()).await.unwrap();
            assert!(refused(&reply, "circuit_open"), "{way:?}: {reply:?}");
        }
        let call = post().header("content-type", "application/grpc");
        let reply = workload.send(call).await.unwrap();
        assert_eq!(reply.header("grpc-status"), "14", "{way:?}: {reply:?}");
        assert_eq!(asked.load(Ordering::SeqCst), 5, "{way:?}");
        for line in [
            r#"tipstaff_upstream_failures_total{direction="outbound",reason="circuit_open"} 21"#,
            "tipstaff_ejected_endpoints 1\n",
        ] {
            counted(&frontend, line).await;
        }
    }
}

#[tokio::test]
async fn one_request_finds_out_that_the_only_endpoint_is_well_again() {
    let authority = Authority::new();
    let (healing, asked) = orders(&authority, Way::FailsFirst(3)).await;
    let rest = Duration::from_secs(2);
    let frontend = with(&authority, &[healing], breaker(3, rest));
    let mut workload = Caller::workload(frontend.outbound()).await;
    for _ in 0..3 {
        let reply = workload.send(post()).await.unwrap();
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    }
    let healed = async {
        loop {
            let reply = workload.send(post()).await.unwrap();
            if reply.status == StatusCode::OK {
                break;
            }
            assert!(refused(&reply, "circuit_open"), "{reply:?}");
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, healed).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 4);
    for _ in 0..10 {
        assert_eq!(workload.send(post()).await.unwrap().status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_breaker_that_is_off_never_opens() {
    let authority = Authority::new();
    let (failing, asked) = orders(&authority, Way::Fails).await;
    let frontend = with(&authority, &[failing], |service| {
        service.resilience.breaker = None;
    });
    let mut workload = Caller::workload(frontend.outbound()).await;
    for _ in 0..20 {
        let reply = workload.send(post()).await.unwrap();
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 20);
}

/// Two requests that nobody answers, then one more.
async fn third_of(frontend: &Sidecar) -> Reply {
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut workload = Caller::workload(frontend.outbound()).await;
        waiting.push(tokio::spawn(async move { workload.send(post()).await }));
    }
    let mut workload = Caller::workload(frontend.outbound()).await;
    let third = async {
        loop {
            let sent = workload.send(post());
            match timeout(LIMIT / 10, sent).await {
                Ok(reply) => return reply.unwrap(),
                // It was quicker than those two.
                Err(_) => workload = Caller::workload(frontend.outbound()).await,
            }
        }
    };
    let third = timeout(SOON, third).await.unwrap();
    for waiting in waiting {
        waiting.abort();
    }
    third
}

#[tokio::test]
async fn requests_beyond_those_that_may_wait_are_refused_at_once() {
    let authority = Authority::new();
    let (silent, _) = orders(&authority, Way::Hangs).await;
    let hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // Whether they wait for an answer or for a connection.
    for endpoint in [silent, hole.local_addr().unwrap()] {
        let frontend = with(&authority, &[endpoint], |service| {
            service.timeout = LONG;
            service.resilience.max_pending = 2;
        });
        let reply = third_of(&frontend).await;
        assert!(refused(&reply, "overloaded"), "{reply:?}");
        counted(
            &frontend,
            r#"tipstaff_upstream_failures_total{direction="outbound",reason="overloaded"}"#,
        )
        .await;
    }
}

#[tokio::test]
async fn a_full_endpoint_is_not_asked_while_another_has_room() {
    let authority = Authority::new();
    let (silent, asked) = orders(&authority, Way::Hangs).await;
    let (serving, _) = orders(&authority, Way::Serves).await;
    let frontend = with(&authority, &[silent, serving], |service| {
        service.timeout = LONG;
        service.resilience.max_pending = 1;
    });
    // Until the silent one has what it may have.
    let fills = async {
        while asked.load(Ordering::SeqCst) == 0 {
            let mut workload = Caller::workload(frontend.outbound()).await;
            let sent = tokio::spawn(async move { workload.send(post()).await });
            sleep(Duration::from_millis(20)).await;
            drop(sent);
        }
    };
    timeout(SOON, fills).await.unwrap();
    let mut workload = Caller::workload(frontend.outbound()).await;
    for _ in 0..20 {
        assert_eq!(workload.send(post()).await.unwrap().status, StatusCode::OK);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn connections_to_an_endpoint_that_takes_one_request_on_each_are_bounded() {
    let authority = Authority::new();
    let svid = authority.svid(ORDERS, Life::Hour);
    let bundle = Arc::new(Arc::new(authority.bundle()));
    let config = server_config(&svid, bundle, ClientAuth::Required, &[b"http/1.1"]);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::<AtomicUsize>::default();
    let accepted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            accepted.fetch_add(1, Ordering::SeqCst);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                head(&mut stream).await;
                std::future::pending::<()>().await;
            });
        }
    });
    let frontend = with(&authority, &[address], |service| {
        service.timeout = LONG;
        service.resilience.max_connections = 2;
    });
    let reply = third_of(&frontend).await;
    assert!(refused(&reply, "overloaded"), "{reply:?}");
    assert!(connections.load(Ordering::SeqCst) <= 2);
}
