use crate::harness::{CART, Ca, LeafKey, Workload, origin, within};
use crate::renew::{renewal, watching};
use ca::client;
use ca::metrics::Reason;
use ca::proto::{IssueRequest, RenewResponse};
use ca::server::{Options, ServeError, Server};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tonic::Code;

fn options(refusals_per_minute: u32) -> Options {
    Options {
        refusals_per_minute,
        ..Options::default()
    }
}

/// Every file of the CA by content, but for SQLite's shared memory, which readers change too.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.is_file() && !path.to_string_lossy().ends_with("-shm"))
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect()
}

#[tokio::test]
async fn a_flood_of_garbage_writes_nothing_and_is_limited() {
    let ca = Ca::start_with(options(100)).await;
    let before = contents(&ca.directory());
    for n in 0..50 {
        let mut socket = TcpStream::connect(ca.address).await.unwrap();
        socket.write_all(&[n; 500]).await.unwrap();
        // Closed, with or without an alert.
        let _ = within(socket.read_to_end(&mut Vec::new())).await;
    }
    assert_eq!(ca.metrics.refused(Reason::Handshake), 50);
    let mut calls = ca.connect(None).await;
    let mut codes = BTreeMap::<String, u32>::new();
    for n in 0..300 {
        let unknown = ca::token::JoinToken::generate().reveal().to_string();
        let request = match n % 3 {
            0 => IssueRequest::default(),
            1 => Workload::new().request(CART, &unknown),
            _ => Workload::new().request(CART, ""),
        };
        let status = calls.issue(request).await.unwrap_err();
        *codes.entry(format!("{:?}", status.code())).or_default() += 1;
    }
    let limited = codes["ResourceExhausted"];
    // The budget refills while the test runs.
    assert!((100..=200).contains(&limited), "{codes:?}");
    assert_eq!(ca.metrics.refused(Reason::RateLimited), u64::from(limited));
    assert!(ca.metrics.refused(Reason::UnknownToken) > 30);
    assert_eq!(
        contents(&ca.directory()),
        before,
        "not one byte was written"
    );
}

#[tokio::test]
async fn a_flooding_neighbour_does_not_keep_an_identity_from_renewing() {
    let ca = Ca::start_with(options(10)).await;
    let workload = Workload::new();
    let request = workload.request(CART, &ca.token(CART).await);
    let reply = ca.connect(None).await.issue(request).await.unwrap();
    let svid = workload.svid(reply.into_inner());
    let mut calls = ca.connect(None).await;
    for _ in 0..20 {
        calls.issue(IssueRequest::default()).await.unwrap_err();
    }
    let renewal = ca::proto::RenewRequest {
        csr: LeafKey::new().csr,
        ..ca::proto::RenewRequest::default()
    };
    ca.connect(Some(&svid)).await.renew(renewal).await.unwrap();
}

#[tokio::test]
async fn an_identity_that_floods_cannot_fill_the_audit_log() {
    let ca = Ca::start_with(options(10)).await;
    let workload = Workload::new();
    let request = workload.request(CART, &ca.token(CART).await);
    let reply = ca.connect(None).await.issue(request).await.unwrap();
    let svid = workload.svid(reply.into_inner());
    let before = ca.audit();
    let mut calls = ca.connect(Some(&svid)).await;
    let mut last = Code::Ok;
    for _ in 0..30 {
        let bad = ca::proto::RenewRequest::default();
        last = calls.renew(bad).await.unwrap_err().code();
    }
    assert_eq!(last, Code::ResourceExhausted);
    let written = ca.audit().records - before.records;
    assert!((10..=12).contains(&written), "{written} records");
}

#[tokio::test]
async fn an_identity_that_keeps_renewing_is_slowed_down_and_others_are_not() {
    let ca = Ca::start_with(Options {
        certificates_per_minute: 4,
        ..Options::default()
    })
    .await;
    let workload = Workload::new();
    let request = workload.request(CART, &ca.token(CART).await);
    let reply = ca.connect(None).await.issue(request.clone()).await.unwrap();
    let svid = workload.svid(reply.into_inner());
    let mut calls = ca.connect(Some(&svid)).await;
    // The same key each time, as if every reply were lost: with others its lineage would be frozen first.
    let leaf = LeafKey::new();
    let renewal = || ca::proto::RenewRequest {
        csr: leaf.csr.clone(),
        ..ca::proto::RenewRequest::default()
    };
    let mut issued = 0;
    for _ in 0..30 {
        match calls.renew(renewal()).await {
            Ok(_) => issued += 1,
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                let words = "too many certificates for this identity";
                assert!(status.message().contains(words), "{status:?}");
            }
        }
    }
    assert_eq!(issued, 3, "and one by the token");
    // Its enrolment key gets it no more.
    let refused = ca.connect(None).await.issue(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let records = ca::ledger::records(&ca.directory(), 1, 100).unwrap();
    assert!(records.iter().all(|record| record.kind != "refused"));

    let other = "spiffe://demo.test/ns/shop/sa/orders";
    let request = Workload::new().request(other, &ca.token(other).await);
    ca.connect(None).await.issue(request).await.unwrap();
}

#[tokio::test]
async fn a_server_that_cannot_listen_issues_nothing() {
    let ca = Ca::start().await;
    let before = ca.audit().records;
    let second = Server::bind(ca.authority.clone(), ca.address, Options::default()).await;
    assert!(matches!(second, Err(ServeError::Bind { .. })), "{second:?}");
    assert_eq!(ca.audit().records, before);
}

#[tokio::test]
async fn an_oversized_message_is_refused_with_its_limit() {
    let ca = Ca::start().await;
    let mut request = Workload::new().request(CART, "");
    request.join_token = "x".repeat(17_000);
    let status = ca.connect(None).await.issue(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(
        status.message().contains("at most 16384 bytes"),
        "{status:?}"
    );
    assert_eq!(ca.metrics.refused(Reason::OversizedMessage), 1);
}

#[tokio::test]
async fn a_message_or_method_that_is_not_in_the_contract_is_refused() {
    let ca = Ca::start().await;
    for (method, code, reason) in [
        ("Renew", Code::InvalidArgument, Reason::MalformedMessage),
        ("Revoke", Code::Unimplemented, Reason::UnknownMethod),
    ] {
        let transport = ca.transport(None).await.unwrap();
        let mut grpc = tonic::client::Grpc::with_origin(transport, origin());
        grpc.ready().await.unwrap();
        // An IssueRequest where a RenewRequest is expected: its second field has another type.
        let codec = tonic_prost::ProstCodec::<IssueRequest, RenewResponse>::default();
        let path = format!("/tipstaff.ca.v1.CertificateAuthority/{method}");
        let request = tonic::Request::new(Workload::new().request(CART, ""));
        let called = grpc.unary(request, path.parse().unwrap(), codec).await;
        let status = called.expect_err("nothing to answer");
        assert_eq!(status.code(), code, "{status:?}");
        assert_eq!(ca.metrics.refused(reason), 1);
    }
}

#[tokio::test]
async fn a_client_that_never_finishes_its_handshake_is_closed() {
    let ca = Ca::start_with(Options {
        handshake_timeout: Duration::from_millis(100),
        ..Options::default()
    })
    .await;
    let mut socket = TcpStream::connect(ca.address).await.unwrap();
    socket.write_all(&[0x16]).await.unwrap();
    let read = within(socket.read(&mut [0; 16])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert_eq!(ca.metrics.refused(Reason::HandshakeTimeout), 1);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let ca = Ca::start_with(Options {
        max_connections: 1,
        ..Options::default()
    })
    .await;
    let first = ca.connect(None).await;
    ca.try_connect(None)
        .await
        .map(drop)
        .expect_err("no place is left");
    assert_eq!(ca.metrics.refused(Reason::ConnectionLimit), 1);
    drop(first);
}

#[tokio::test]
async fn one_address_cannot_take_all_places_without_a_certificate() {
    let ca = Ca::start_with(Options {
        max_strangers_per_address: 1,
        ..Options::default()
    })
    .await;
    let workload = Workload::new();
    let request = workload.request(CART, &ca.token(CART).await);
    let mut stranger = ca.connect(None).await;
    let reply = stranger.issue(request).await.unwrap();
    let refused = ca.try_connect(None).await.map(drop);
    refused.expect_err("the address has its share");
    drop(stranger);

    // Whoever has shown a certificate is no stranger any more.
    let svid = workload.svid(reply.into_inner());
    let mut held = Vec::new();
    let all_held = async {
        while held.len() < 3 {
            // The server hears a little later that the stranger has left.
            match ca.try_connect(Some(&svid)).await {
                Ok(mut calls) => {
                    held.push((calls.watch_bundle(watching()).await.unwrap(), calls));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    within(all_held).await;
}

#[tokio::test]
async fn an_address_that_holds_all_it_gets_leaves_places_for_others() {
    let ca = Ca::start_with(Options {
        max_connections: 8,
        max_strangers_per_address: 8,
        ..Options::default()
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..8 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        held.push(socket.connect(ca.address).await.unwrap());
    }
    ca.connect(None).await;
    assert_eq!(ca.metrics.refused(Reason::ConnectionLimit), 5);
}

#[tokio::test]
async fn one_identity_cannot_take_all_places() {
    let ca = Ca::start_with(Options {
        max_connections_per_identity: 2,
        ..Options::default()
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let client = ca.enrolled(CART, &dir.path().join("key")).await;
    let svid = client.svid.borrow().clone().unwrap();
    // The client itself holds one, or will, for the trust bundle.
    let (mut served, mut turned_away, mut held) = (0, 0, Vec::new());
    for _ in 0..4 {
        let opened = match ca.try_connect(Some(&svid)).await {
            Ok(mut calls) => {
                let opened = calls.watch_bundle(watching()).await.map(drop);
                held.push(calls);
                opened.is_ok()
            }
            Err(_) => false,
        };
        *(if opened {
            &mut served
        } else {
            &mut turned_away
        }) += 1;
    }
    assert!(served <= 2 && turned_away >= 2, "{served}, {turned_away}");
    assert!(ca.metrics.refused(Reason::ConnectionLimit) >= 2);
    let other = "spiffe://demo.test/ns/shop/sa/orders";
    ca.enrolled(other, &dir.path().join("other")).await;
}

#[tokio::test]
async fn the_holder_of_one_certificate_leaves_the_other_replicas_of_its_identity_theirs() {
    let ca = Ca::start_with(Options {
        max_connections_per_certificate: 2,
        ..Options::default()
    })
    .await;
    let [thiefs, others] = [ca.identity(CART).await, ca.identity(CART).await];
    let mut held = Vec::new();
    for _ in 0..4 {
        if let Ok(mut calls) = ca.try_connect(Some(&thiefs)).await
            && calls.watch_bundle(watching()).await.is_ok()
        {
            held.push(calls);
        }
    }
    assert_eq!(held.len(), 2);
    assert_eq!(ca.metrics.refused(Reason::ConnectionLimit), 2);
    let leaf = LeafKey::new();
    let mut calls = ca.connect(Some(&others)).await;
    calls.renew(renewal(&leaf)).await.unwrap();
}

#[tokio::test]
async fn a_nameless_connection_does_not_hold_its_place_for_long() {
    let ca = Ca::start_with(Options {
        max_anonymous_age: Duration::from_millis(100),
        drain: Duration::from_millis(100),
        ..Options::default()
    })
    .await;
    let mut calls = ca.connect(None).await;
    let gone = async {
        while ca
            .metrics
            .render()
            .contains("tipstaff_ca_open_connections 1\n")
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(gone).await;
    calls
        .issue(IssueRequest::default())
        .await
        .expect_err("it was closed");
}

#[tokio::test]
async fn a_certificate_of_another_domain_gets_no_connection() {
    let ca = Ca::start().await;
    let other = Ca::start().await;
    let dir = tempfile::tempdir().unwrap();
    let stranger = other.enrolled(CART, &dir.path().join("key")).await;
    let svid = stranger.svid.borrow().clone().unwrap();
    // With TLS 1.3 a client learns that it was refused when it first reads.
    let refused = match ca.try_connect(Some(&svid)).await {
        Err(_) => true,
        Ok(mut calls) => {
            let renewal = ca::proto::RenewRequest {
                csr: LeafKey::new().csr,
                ..ca::proto::RenewRequest::default()
            };
            calls.renew(renewal).await.is_err()
        }
    };
    assert!(refused);
    assert_eq!(ca.metrics.refused(Reason::Handshake), 1);
    assert_eq!(ca.metrics.issued(ca::metrics::Call::Renew), 0);
    drop::<client::Handles>(stranger);
}
