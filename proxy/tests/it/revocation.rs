use crate::harness::{
    App, Authority, CART, Caller, FRONTEND, Life, ORDERS, Sidecar, document, grant_all, outbound,
    service, sidecar,
};
use http::{Request, StatusCode};
use identity::{Revocations, Svid};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

const HOST: &str = "orders.shop.example";
/// Open connections are looked at every few seconds.
const PATIENCE: Duration = Duration::from_secs(30);

fn serial_of(svid: &Svid) -> Revocations {
    Revocations {
        sequence: 1,
        serials: [svid.leaf().serial.clone()].into(),
        ..Revocations::default()
    }
}

fn ask() -> http::request::Builder {
    Request::get("/a").header("host", HOST)
}

/// Asks until that fails; connections are cut between requests and within them.
async fn is_cut(caller: &mut Caller) -> bool {
    let asking = async {
        while caller.send(ask()).await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, asking).await.is_ok()
}

async fn orders(authority: &Authority) -> (App, Sidecar) {
    let app = App::start().await;
    let svid = authority.svid(ORDERS, Life::Hour);
    let everybody = grant_all()
        + &document(
            "Grant",
            "cart",
            &format!(
                "from: [\"{CART}\"], validity: {{notAfter: never, because: test}}, allow: [{{methods: [GET], path: \"/**\"}}]"
            ),
        );
    let orders = sidecar(authority, svid, app.address, &everybody, |_| ());
    (app, orders)
}

#[tokio::test]
async fn a_revoked_caller_loses_its_connections_and_gets_no_other_and_nobody_else_is_touched() {
    let authority = Authority::new();
    let (_app, orders) = orders(&authority).await;
    let svid = authority.svid(FRONTEND, Life::Hour);
    let other = authority.svid(CART, Life::Hour);
    let mut http1 = Caller::http1(orders.inbound, &authority, Some(&svid))
        .await
        .unwrap();
    let mut http2 = Caller::http2(orders.inbound, &authority, &svid).await;
    let mut innocent = Caller::http2(orders.inbound, &authority, &other).await;
    for caller in [&mut http1, &mut http2, &mut innocent] {
        assert_eq!(caller.get(HOST, "/a").await.status, StatusCode::OK);
    }

    orders.revocations.send_replace(Arc::new(serial_of(&svid)));
    // A handshake of TLS 1.3 fails for the client when it first reads.
    if let Ok(mut caller) = Caller::http1(orders.inbound, &authority, Some(&svid)).await {
        assert!(caller.send(ask()).await.is_err());
    }
    let metrics = orders.metrics().await;
    assert!(metrics.contains("reason=\"revoked\"} 1"), "{metrics}");
    assert!(is_cut(&mut http1).await);
    assert!(is_cut(&mut http2).await);
    assert_eq!(innocent.get(HOST, "/a").await.status, StatusCode::OK);
    let fresh = authority.svid(FRONTEND, Life::Hour);
    let mut caller = Caller::http2(orders.inbound, &authority, &fresh).await;
    assert_eq!(caller.get(HOST, "/a").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_idle_connection_of_a_revoked_identity_is_closed_too() {
    let authority = Authority::new();
    let (_app, orders) = orders(&authority).await;
    let svid = authority.svid(FRONTEND, Life::Hour);
    let mut caller = Caller::http2(orders.inbound, &authority, &svid).await;
    assert_eq!(caller.get(HOST, "/a").await.status, StatusCode::OK);
    orders.revocations.send_replace(Arc::new(Revocations {
        sequence: 1,
        identities: [(svid.id().clone(), None)].into(),
        ..Revocations::default()
    }));
    let Caller::Http2(sender) = &caller else {
        unreachable!("it is HTTP/2");
    };
    let closed = async {
        while !sender.is_closed() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, closed).await.unwrap();
}

#[tokio::test]
async fn a_revoked_server_is_called_no_more_over_a_connection_that_was_open_or_a_new_one() {
    let authority = Authority::new();
    let app = App::start().await;
    let svid = authority.svid(ORDERS, Life::Hour);
    let revoked = serial_of(&svid);
    let orders = sidecar(&authority, svid, app.address, &grant_all(), |_| ());
    let to = orders.inbound;
    let svid = authority.svid(FRONTEND, Life::Hour);
    let frontend = sidecar(&authority, svid, app.address, "", |config| {
        config.outbound = outbound(vec![service(HOST, to, ORDERS)]);
    });
    let mut workload = Caller::workload(frontend.outbound()).await;
    assert_eq!(workload.get(HOST, "/a").await.status, StatusCode::OK);

    frontend.revocations.send_replace(Arc::new(revoked));
    let refused = async {
        loop {
            let mut workload = Caller::workload(frontend.outbound()).await;
            let reply = workload.get(HOST, "/a").await;
            if reply.status != StatusCode::OK {
                return reply;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let reply = timeout(PATIENCE, refused).await.unwrap();
    assert!(reply.status.is_server_error(), "{reply:?}");
    // The server gets a certificate that is not on the list.
    let fresh = authority.svid(ORDERS, Life::Hour);
    orders.svid.send_replace(Some(Arc::new(fresh)));
    let recovered = async {
        loop {
            let mut workload = Caller::workload(frontend.outbound()).await;
            if workload.get(HOST, "/a").await.status == StatusCode::OK {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, recovered).await.unwrap();
}
