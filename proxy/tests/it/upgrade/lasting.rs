use super::{ASK, Both, Pair, SWITCH, profile, rest, said};
use crate::harness::{compile, document, grant_all, head};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

#[tokio::test]
async fn a_withdrawn_grant_ends_its_websockets_and_another_change_does_not() {
    let documents = grant_all() + &profile();
    let pair = Pair::new(&documents, SWITCH).await;
    let mut stream = pair.workload().await;
    stream.write_all(ASK.as_bytes()).await.unwrap();
    head(&mut stream).await;
    for change in 0..20 {
        let more = document("Guard", &format!("g{change}"), "deny: [{path: \"/other\"}]");
        pair.orders
            .policy
            .send_replace(Arc::new(compile(&(documents.clone() + &more))));
        stream.write_all(b"still").await.unwrap();
        said(&mut stream, "still").await;
    }
    let guard = document("Guard", "none", "deny: [{path: \"/chat\"}]");
    pair.orders
        .policy
        .send_replace(Arc::new(compile(&(documents + &guard))));
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn a_response_that_goes_on_ends_with_its_grant_whatever_the_request_said() {
    let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let pair = Pair::new(&grant_all(), answer).await;
    let streams: [Box<dyn Both>; 2] = [
        Box::new(pair.direct().await),
        Box::new(pair.workload().await),
    ];
    for mut stream in streams {
        pair.orders
            .policy
            .send_replace(Arc::new(compile(&grant_all())));
        let ask = b"GET /events HTTP/1.1\r\nHost: orders.shop.example\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        let begun = head(&mut stream).await;
        assert!(begun.starts_with("HTTP/1.1 200 "), "{begun}");
        pair.orders.policy.send_replace(Arc::new(compile("")));
        let after = rest(&mut stream).await;
        assert!(!after.contains("0\r\n\r\n"), "it looks whole: {after:?}");
    }
}

#[tokio::test]
async fn events_and_calls_may_rest_for_longer_than_a_body_may_stall() {
    for (answer, is_cut) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"[..], false),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", true),
    ] {
        let pair = Pair::new(&grant_all(), answer).await;
        for sidecar in [&pair.orders, &pair.frontend] {
            let mut config = sidecar.config.clone();
            config.timeouts.idle = Duration::from_millis(300);
            sidecar.reload.apply(config).unwrap();
        }
        let mut stream = pair.workload().await;
        let ask = b"GET /events HTTP/1.1\r\nHost: orders.shop.example\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        head(&mut stream).await;
        let mut bytes = Vec::new();
        let ended = timeout(Duration::from_secs(2), stream.read_to_end(&mut bytes)).await;
        assert_eq!(ended.is_ok(), is_cut, "{}", String::from_utf8_lossy(answer));
    }
}
