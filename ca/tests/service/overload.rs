use crate::harness::{CART, Ca, LeafKey, Workload, within};
use ca::metrics::{Call, Reason};
use ca::proto::RenewRequest;
use ca::server::Options;
use identity::SpiffeId;
use identity::tls::{client_config, server_name};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::{Code, Status};

/// In how many milliseconds the caller is to come back.
fn pushback(status: &Status) -> u64 {
    let told = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    told.to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_address_that_asks_for_ever_more_identities_is_slowed_down_and_told_until_when() {
    let ca = Ca::start_with(Options {
        certificates_per_minute_per_address: 3,
        ..Options::default()
    })
    .await;
    let mut issued = 0;
    for number in 0..6 {
        let id = format!("{CART}{number}");
        let request = Workload::new().request(&id, &ca.token(&id).await);
        match ca.connect(None).await.issue(request).await {
            Ok(_) => issued += 1,
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                assert!(status.message().contains("for this address"), "{status:?}");
                assert!((1..=60_000).contains(&pushback(&status)), "{status:?}");
            }
        }
    }
    assert_eq!(issued, 3);
}

#[tokio::test]
async fn who_is_turned_away_is_told_when_to_come_back_and_fills_no_ledger() {
    let ca = Ca::start_with(Options {
        issued_at_once: 1,
        waiting: 1,
        ..Options::default()
    })
    .await;
    let svid = ca.identity(CART).await;
    let before = ca.audit().records;
    let (mut all, csr) = (JoinSet::new(), LeafKey::new().csr);
    for _ in 0..10 {
        let calls = ca.connect(Some(&svid)).await;
        for _ in 0..8 {
            let (mut calls, csr) = (calls.clone(), csr.clone());
            all.spawn(async move {
                let renewal = RenewRequest {
                    csr,
                    ..RenewRequest::default()
                };
                calls.renew(renewal).await
            });
        }
    }
    let mut turned_away = 0;
    while let Some(answer) = all.join_next().await {
        let Err(status) = answer.unwrap() else {
            continue;
        };
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        // The certificate has an hour: there is time.
        assert_eq!(pushback(&status), 30_000, "{status:?}");
        turned_away += 1;
    }
    assert!(turned_away > 0);
    assert_eq!(ca.metrics.refused(Reason::Overloaded), turned_away);
    let renewed = ca.metrics.issued(Call::Renew);
    assert_eq!(renewed + turned_away, 80);
    assert_eq!(ca.audit().records, before + renewed);
}

#[tokio::test]
async fn clients_that_say_hello_and_nothing_more_keep_nobody_from_a_handshake() {
    let ca = Ca::start_with(Options {
        handshakes_at_once: 1,
        ..Options::default()
    })
    .await;
    let bundle = ca.bundle();
    let server = SpiffeId::ca_server(bundle.trust_domain());
    let config = client_config(None, Arc::new(bundle), server, &[b"h2"]);
    let mut silent = Vec::new();
    // At a quarter of a second each, the last would be turned away after 3 s.
    for _ in 0..16 {
        let mut hello = Vec::new();
        let mut client = rustls::ClientConnection::new(Arc::new(config.clone()), server_name());
        client.as_mut().unwrap().write_tls(&mut hello).unwrap();
        let mut socket = TcpStream::connect(ca.address).await.unwrap();
        socket.write_all(&hello).await.unwrap();
        silent.push(socket);
    }
    within(ca.identity(CART)).await;
    assert_eq!(ca.metrics.refused(Reason::Overloaded), 0);
    assert_eq!(ca.metrics.refused(Reason::HandshakeTimeout), 0);
}
