//! Apps that close connections on which a request may be on its way.

use super::*;
use tokio::sync::Notify;

/// An app that closes what has been idle for so long, and the requests that it has read.
async fn impatient_app(idle: Duration) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::<AtomicUsize>::default();
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                while let Ok(true) =
                    timeout(idle, async { !head(&mut stream).await.is_empty() }).await
                {
                    seen.fetch_add(1, Ordering::SeqCst);
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                }
            });
        }
    });
    (address, requests)
}

/// Requests that come when the app is about to close: each takes as long to arrive as the app waits, give or take 2 %.
async fn arrive_at_the_end(app_idle: Duration) -> (Vec<StatusCode>, usize) {
    const IDLE: Duration = Duration::from_millis(250);
    let authority = Authority::new();
    let (app, seen) = impatient_app(IDLE).await;
    let svid = authority.svid(ORDERS, Life::Hour);
    let sidecar = sidecar(&authority, svid, app, &grant_all(), |config| {
        config.timeouts.app_idle = app_idle;
    });
    let frontend = authority.svid(FRONTEND, Life::Hour);
    let mut callers = Vec::new();
    for number in 0..40 {
        let mut caller = Caller::http2(sidecar.inbound, &authority, &frontend).await;
        callers.push(tokio::spawn(async move {
            let mut statuses = Vec::new();
            for _ in 0..4 {
                let request = post();
                statuses.push(caller.send(request).await.unwrap().status);
                sleep(IDLE - Duration::from_millis(5) + Duration::from_micros(250) * number).await;
            }
            statuses
        }));
    }
    let mut statuses = Vec::new();
    for caller in callers {
        statuses.extend(caller.await.unwrap());
    }
    (statuses, seen.load(Ordering::SeqCst))
}

/// A connection used to be swept once a second, up to which it was taken at any age.
#[tokio::test]
async fn an_app_that_closes_idle_connections_loses_no_request() {
    let (statuses, seen) = arrive_at_the_end(Duration::from_millis(200)).await;
    assert!(
        statuses.iter().all(|status| *status == StatusCode::OK),
        "{statuses:?}"
    );
    assert_eq!(seen, statuses.len());
}

/// What cannot be known to be lost is not sent twice.
#[tokio::test]
async fn an_app_less_patient_than_configured_sees_no_request_twice() {
    let (statuses, seen) = arrive_at_the_end(Duration::from_secs(4)).await;
    let answered = statuses
        .iter()
        .filter(|status| **status == StatusCode::OK)
        .count();
    assert!(
        (answered..=statuses.len()).contains(&seen),
        "{seen} for {statuses:?}"
    );
}

#[tokio::test]
async fn an_app_is_asked_again_on_a_new_connection_only_for_what_may_be_repeated() {
    // Answers once on each connection, and closes it when it is asked again.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                head(&mut stream).await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                head(&mut stream).await;
            });
        }
    });
    let authority = Authority::new();
    let svid = authority.svid(ORDERS, Life::Hour);
    let sidecar = sidecar(&authority, svid, app, &grant_all(), |_| ());
    let frontend = authority.svid(FRONTEND, Life::Hour);
    for (request, status) in [
        (Request::get("/a"), StatusCode::OK),
        (Request::post("/a"), StatusCode::BAD_GATEWAY),
    ] {
        let mut caller = Caller::http2(sidecar.inbound, &authority, &frontend).await;
        // Leaves a connection behind.
        assert_eq!(caller.get(HOST, "/first").await.status, StatusCode::OK);
        let reply = caller.send(request.header("host", HOST)).await.unwrap();
        assert_eq!(reply.status, status);
    }
}

/// On a connection that was kept, as on any other.
#[tokio::test]
async fn an_answer_that_comes_too_late_on_a_kept_connection_is_nobody_elses() {
    const LATE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    let connections = Arc::<AtomicUsize>::default();
    let (seen, given_up) = (Arc::clone(&connections), Arc::new(Notify::new()));
    let said = Arc::clone(&given_up);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            seen.fetch_add(1, Ordering::SeqCst);
            let said = Arc::clone(&said);
            tokio::spawn(async move {
                loop {
                    let asked = head(&mut stream).await;
                    let answer: &[u8] = match asked.split(' ').nth(1) {
                        None => return,
                        Some("/late") => {
                            said.notified().await;
                            LATE
                        }
                        Some(_) => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
                    };
                    // The sidecar may have gone.
                    let _ = stream.write_all(answer).await;
                }
            });
        }
    });
    let authority = Authority::new();
    let svid = authority.svid(ORDERS, Life::Hour);
    let sidecar = sidecar(&authority, svid, app, &grant_all(), |config| {
        config.timeouts.response = Duration::from_millis(300);
    });
    let frontend = authority.svid(FRONTEND, Life::Hour);
    let mut caller = Caller::http2(sidecar.inbound, &authority, &frontend).await;
    assert_eq!(caller.get(HOST, "/first").await.status, StatusCode::OK);
    let late = caller.get(HOST, "/late").await;
    assert_eq!(late.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(connections.load(Ordering::SeqCst), 1, "it was kept");
    given_up.notify_one();
    for path in ["/next", "/last"] {
        let reply = caller.get(HOST, path).await;
        assert_eq!((reply.status, reply.body.as_str()), (StatusCode::OK, ""));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}
