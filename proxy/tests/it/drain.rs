use crate::harness::{App, Authority, Caller, FRONTEND, Life, ORDERS, Sidecar, grant_all, sidecar};
use http::{Request, StatusCode};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

const HOST: &str = "orders.shop.example";
const SOON: Duration = Duration::from_secs(10);

async fn orders(limit: Duration) -> (Authority, App, Sidecar) {
    let authority = Authority::new();
    let app = App::start().await;
    let svid = authority.svid(ORDERS, Life::Hour);
    let sidecar = sidecar(&authority, svid, app.address, &grant_all(), |config| {
        config.timeouts.drain = limit;
    });
    (authority, app, sidecar)
}

#[tokio::test]
async fn what_is_in_flight_ends_and_nothing_new_begins() {
    let (authority, app, mut sidecar) = orders(SOON).await;
    let frontend = authority.svid(FRONTEND, Life::Hour);
    let http1 = Caller::http1(sidecar.inbound, &authority, Some(&frontend))
        .await
        .unwrap();
    let http2 = Caller::http2(sidecar.inbound, &authority, &frontend).await;
    let mut slow = Vec::new();
    for mut caller in [http1, http2] {
        slow.push(tokio::spawn(
            async move { caller.get(HOST, "/slow/500").await },
        ));
    }
    while app.requests() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sidecar.drain.start();
    for caller in slow {
        assert_eq!(caller.await.unwrap().status, StatusCode::OK);
    }
    timeout(SOON, &mut sidecar.running)
        .await
        .expect("ends with the last request")
        .unwrap();
    assert!(TcpStream::connect(sidecar.inbound).await.is_err());
}

#[tokio::test]
async fn what_hangs_is_cut_at_the_limit() {
    let (authority, app, mut sidecar) = orders(Duration::from_millis(200)).await;
    let frontend = authority.svid(FRONTEND, Life::Hour);
    let mut caller = Caller::http2(sidecar.inbound, &authority, &frontend).await;
    let hanging = tokio::spawn(async move {
        caller
            .send(Request::get("/slow/60000").header("host", HOST))
            .await
    });
    while app.requests() < 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sidecar.drain.start();
    timeout(SOON, &mut sidecar.running)
        .await
        .expect("cut at the limit")
        .unwrap();
    assert!(hanging.await.unwrap().is_err());
}
