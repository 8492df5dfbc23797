use super::{ASK, Both, Pair, SWITCH, profile, rest, said};
use crate::harness::{ORDERS, compile, document, grant, grant_all, head, service};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// A grant of its own for each of the two halves.
fn half(name: &str) -> String {
    let spec = format!("allow: [{{methods: [GET], path: \"/{name}/**\"}}]");
    grant(&spec).replace("name: front", &format!("name: {name}"))
}

#[tokio::test]
async fn a_hundred_websockets_outlast_a_thousand_changes_and_a_withdrawn_grant_ends_exactly_its_own()
 {
    let [left, right] = ["left", "right"].map(half);
    let documents = format!("{left}{right}{}", profile());
    let pair = Pair::new(&documents, SWITCH).await;
    let mut streams = Vec::new();
    for number in 0..100 {
        let mut stream = pair.workload().await;
        let path = ["/left/chat", "/right/chat"][number % 2];
        let ask = ASK.replace("/chat", path);
        stream.write_all(ask.as_bytes()).await.unwrap();
        let answer = head(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        streams.push(stream);
    }
    let mut config = pair.frontend.config.clone();
    for change in 0..1000 {
        if change % 2 == 0 {
            let deny = format!("deny: [{{path: \"/other/{change}\"}}]");
            let documents = format!("{documents}{}", document("Guard", "other", &deny));
            pair.orders
                .policy
                .send_replace(Arc::new(compile(&documents)));
        } else {
            let host = format!("more-{change}.example");
            let services = &mut config.outbound.as_mut().unwrap().services;
            services.truncate(1);
            services.push(service(&host, pair.orders.inbound, ORDERS));
            pair.frontend.reload.apply(config.clone()).unwrap();
        }
        // Each change is taken in before the next.
        let stream = &mut streams[change % 100];
        stream.write_all(b"still").await.unwrap();
        said(stream, "still").await;
    }
    for stream in &mut streams {
        stream.write_all(b"there").await.unwrap();
        said(stream, "there").await;
    }
    let documents = left + &profile();
    pair.orders
        .policy
        .send_replace(Arc::new(compile(&documents)));
    for (number, stream) in streams.iter_mut().enumerate() {
        if number % 2 == 0 {
            stream.write_all(b"still").await.unwrap();
            said(stream, "still").await;
        } else {
            assert_eq!(rest(stream).await, "", "stream {number} goes on");
        }
    }
    // A Guard ends what a grant still allows.
    let guard = document("Guard", "none", "deny: [{path: \"/left/**\"}]");
    pair.orders
        .policy
        .send_replace(Arc::new(compile(&(documents + &guard))));
    assert_eq!(rest(&mut streams[0]).await, "");
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
