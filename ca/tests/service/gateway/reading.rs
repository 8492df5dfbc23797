use super::*;

#[tokio::test]
async fn anyone_may_read_the_bundle_and_the_description() {
    let ca = Ca::start().await;
    let bundle = send(&ca, None, HTTP2, get("/v1/bundle")).await.json();
    assert_eq!(bundle["trustDomain"], "demo.test");
    let authorities: Vec<_> = ca
        .bundle()
        .authorities()
        .iter()
        .map(|der| STANDARD.encode(der))
        .collect();
    assert_eq!(bundle["authorities"], json!(authorities));
    let document = send(&ca, None, HTTP1, get("/bundle")).await;
    assert_eq!(document.headers["content-type"], "application/json");
    assert!(document.json()["keys"].is_array());
    let description = send(&ca, None, HTTP1, get("/v1/openapi.json")).await;
    assert_eq!(description.json()["openapi"], "3.1.0");
}

#[tokio::test]
async fn who_reads_without_end_is_told_when_to_come_back_and_its_connection_ends() {
    let ca = Ca::start_with(Options {
        reads_per_minute_per_address: 3,
        // Not because of its age.
        max_anonymous_age: Duration::from_secs(3600),
        ..Options::default()
    })
    .await;
    let bare = "GET /bundle HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = raw(&ca, bare.repeat(6).as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 3, "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 429 ").count(), 1, "{answer}");
    let stream = TokioIo::new(connect(&ca, None, HTTP2).await);
    let opened = http2::handshake(TokioExecutor::new(), stream).await;
    let (mut requests, connection) = opened.unwrap();
    let connection = tokio::spawn(connection);
    let reply = within(requests.send_request(get("/bundle"))).await.unwrap();
    assert_eq!(reply.status(), 429);
    drop(reply);
    // By a GOAWAY, while the client would go on.
    within(connection).await.unwrap().unwrap();
    within(requests.send_request(get("/bundle")))
        .await
        .unwrap_err();
    for path in ["/bundle", "/v1/bundle", "/v1/openapi.json"] {
        let reply = send(&ca, None, HTTP2, get(path)).await;
        assert_eq!(reply.status, 429, "{path}");
        let (code, sentence, reason) = reply.refusal();
        assert_eq!((code, &*reason), (8, "rate_limited"));
        assert!(sentence.contains("readings"), "{sentence}");
        let wait = reply.headers["retry-after"].to_str().unwrap();
        assert!((1..=60).contains(&wait.parse::<u64>().unwrap()), "{wait}");
    }
    // What it reads takes nothing from what it needs, nor from those who have a certificate.
    let svid = ca.identity(CART).await;
    let reply = send(&ca, Some(&svid), HTTP1, get("/v1/bundle")).await;
    assert_eq!(reply.status, StatusCode::OK);
}

#[tokio::test]
async fn readers_at_many_addresses_leave_the_others_their_readings() {
    let ca = Ca::start_with(Options {
        reads_per_minute_per_address: 1,
        ..Options::default()
    })
    .await;
    let read = b"GET /bundle HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for last in 2..100 {
        let answer = raw_from([127, 0, 0, last], &ca, read).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{last}: {answer}");
    }
}
