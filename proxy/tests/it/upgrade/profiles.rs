use super::rest;
use crate::harness::{
    App, Authority, FRONTEND, Life, ORDERS, document, grant_all, head, sidecar, tls,
};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_preflight_passes_where_its_request_does_if_the_profile_says_so() {
    let preflight = "OPTIONS /bytes/5 HTTP/1.1\r\nHost: orders\r\nOrigin: https://shop.example\r\n\
                     Access-Control-Request-Method: POST\r\n\r\n";
    let with_body = preflight.replace("\r\n\r\n", "\r\nContent-Length: 2\r\n\r\nhi");
    let of_put = preflight.replace("POST", "PUT");
    let app = App::start().await;
    let authority = Authority::new();
    let cors = document("HttpProfile", "cors", "cors: preflight");
    for (documents, ask, status) in [
        (grant_all() + &cors, preflight, "200"),
        (grant_all() + &cors, &with_body, "403"),
        (grant_all() + &cors, &of_put, "403"),
        (grant_all(), preflight, "403"),
    ] {
        let svid = authority.svid(ORDERS, Life::Hour);
        let orders = sidecar(&authority, svid, app.address, &documents, |_| ());
        let frontend = authority.svid(FRONTEND, Life::Hour);
        let mut caller = tls(orders.inbound, &authority, Some(&frontend), b"http/1.1")
            .await
            .unwrap();
        caller.write_all(ask.as_bytes()).await.unwrap();
        let answer = head(&mut caller).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}\n{ask}"
        );
    }
}

#[tokio::test]
async fn http_1_0_is_taken_where_the_profile_says_so() {
    let authority = Authority::new();
    let app = App::start().await;
    for (profile, version) in [("", "505"), ("http10: true", "200")] {
        let documents = match profile {
            "" => grant_all(),
            spec => grant_all() + &document("HttpProfile", "old", spec),
        };
        let svid = authority.svid(ORDERS, Life::Hour);
        let orders = sidecar(&authority, svid, app.address, &documents, |_| ());
        let frontend = authority.svid(FRONTEND, Life::Hour);
        let mut caller = tls(orders.inbound, &authority, Some(&frontend), b"http/1.1")
            .await
            .unwrap();
        let ask = "GET /bytes/5 HTTP/1.0\r\nHost: orders\r\nConnection: keep-alive\r\n\r\n\
                   GET /bytes/6 HTTP/1.1\r\nHost: orders\r\n\r\n";
        caller.write_all(ask.as_bytes()).await.unwrap();
        let answer = rest(&mut caller).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {version} ")),
            "{answer}"
        );
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        assert!(!answer.contains("chunked"), "{answer}");
    }
    assert_eq!(app.requests(), 1);
}
