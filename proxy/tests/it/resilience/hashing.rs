//! Requests that have something in common go to the same endpoint.

use super::*;
use proxy::config::HashKey;

fn header(name: &'static str) -> HashKey {
    HashKey::Header(http::HeaderName::from_static(name))
}

/// How many of the endpoints got any of 30 requests that `request` makes from 0 to 29.
async fn spread(key: HashKey, request: impl Fn(usize) -> http::request::Builder) -> usize {
    let authority = Authority::new();
    let mut endpoints = Vec::new();
    for _ in 0..4 {
        endpoints.push(orders(&authority, Way::Serves).await);
    }
    let addresses: Vec<_> = endpoints.iter().map(|(address, _)| *address).collect();
    let frontend = with(&authority, &addresses, |service| {
        service.resilience.hash = Some(key);
    });
    let to = frontend.outbound();
    for mut workload in [Caller::workload(to).await, Caller::workload_http2(to).await] {
        for number in 0..15 {
            let request = request(number).header("host", HOST);
            assert_eq!(workload.send(request).await.unwrap().status, StatusCode::OK);
        }
    }
    let asked = endpoints
        .iter()
        .map(|(_, asked)| asked.load(Ordering::SeqCst));
    asked.filter(|asked| *asked > 0).count()
}

#[tokio::test]
async fn what_has_the_same_key_goes_to_the_same_endpoint_and_nothing_else_does() {
    let get = |path: String| Request::get(path);
    // The fields that differ say nothing; what is said again after the first says nothing.
    let same = |number: usize| {
        get(format!("/a?{number}"))
            .header("x-user", "ada")
            .header("cookie", format!("other={number}; user=ada; user={number}"))
            .header("x-number", number)
    };
    for key in [
        header("x-user"),
        HashKey::Cookie("user".to_owned()),
        HashKey::Path,
    ] {
        assert_eq!(spread(key.clone(), same).await, 1, "{key:?}");
    }
    // Without a key, and with as many as there are requests.
    let unlike = |number: usize| {
        get(format!("/{number}"))
            .header("x-user", number)
            .header("cookie", format!("user={number}; auser=ada"))
            .header("x-empty", "")
    };
    assert_eq!(spread(HashKey::Identity, unlike).await, 1);
    for key in [
        header("x-user"),
        header("x-absent"),
        header("x-empty"),
        HashKey::Cookie("user".to_owned()),
        HashKey::Cookie("use".to_owned()),
        HashKey::Path,
    ] {
        assert!(spread(key.clone(), unlike).await > 1, "{key:?}");
    }
}

#[tokio::test]
async fn a_key_whose_endpoint_is_gone_costs_no_request() {
    let authority = Authority::new();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = gone.local_addr().unwrap(); // Closed by now.
    let (serving, _) = orders(&authority, Way::Serves).await;
    let frontend = with(&authority, &[gone, serving], |service| {
        service.resilience.hash = Some(header("x-user"));
    });
    let mut workload = Caller::workload(frontend.outbound()).await;
    for number in 0..30 {
        let reply = workload.send(post().header("x-user", number)).await;
        assert_eq!(reply.unwrap().status, StatusCode::OK);
    }
}
