//! Answers of which a part is lost.

use super::{NAME, Orders, address, frontend, get, listed, until_said};
use crate::harness::{Authority, Nameserver};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use http::StatusCode;
use std::net::{IpAddr, Ipv6Addr};

#[tokio::test]
async fn a_target_that_nobody_answers_for_stays_what_it_was_while_the_others_are_followed() {
    let authority = Authority::new();
    let [orders] = Orders::several(&authority).await;
    let nameserver = Nameserver::start().await;
    let srv = |target: &str| {
        let target = Name::from_ascii(target).unwrap();
        RData::SRV(SRV::new(0, 0, orders.at.port(), target))
    };
    let name = "_mtls._tcp.orders.example.";
    nameserver.set(name, 1, [srv("a.example."), srv("b.example.")]);
    nameserver.addresses("a.example.", 1, &[address(0)]);
    nameserver.addresses("b.example.", 1, &[address(1)]);
    let frontend = frontend(
        &authority,
        nameserver.address,
        listed(&format!("srv:{name}")),
    );
    until_said(&frontend, "/endpoints", "127.0.9.2").await;

    nameserver.loses("b.example.", &[RecordType::A, RecordType::AAAA]);
    until_said(&frontend, "/endpoints", "b.example.: ").await;
    nameserver.addresses("a.example.", 1, &[address(0), address(2)]);
    until_said(&frontend, "/endpoints", "127.0.9.3").await;
    let said = frontend.tells("/endpoints").await;
    assert!(said.contains("127.0.9.2"), "{said}");
    assert_eq!(get(&frontend).await.status, StatusCode::OK);
    let failures = format!("tipstaff_discovery_failures_total{{source=\"srv:{name}\"}}");
    until_said(&frontend, "/metrics", &failures).await;
    nameserver.loses("b.example.", &[]);
    until_said(&frontend, "/endpoints", "\"last_error\": null").await;
}

/// One lost query removed all addresses of one kind.
#[tokio::test]
async fn addresses_of_one_kind_stay_in_use_when_only_the_other_is_answered_for() {
    let authority = Authority::new();
    let [orders] = Orders::several(&authority).await;
    let nameserver = Nameserver::start().await;
    let six = IpAddr::from(Ipv6Addr::LOCALHOST);
    nameserver.addresses(NAME, 1, &[address(0), six]);
    let name = format!("{NAME}:{}", orders.at.port());
    let frontend = frontend(&authority, nameserver.address, listed(&name));
    until_said(&frontend, "/endpoints", "[::1]").await;

    nameserver.loses(NAME, &[RecordType::A]);
    until_said(&frontend, "/endpoints", "found none in time").await;
    let said = frontend.tells("/endpoints").await;
    assert!(
        said.contains("127.0.9.1") && said.contains("[::1]"),
        "{said}"
    );
    assert_eq!(get(&frontend).await.status, StatusCode::OK);

    // It is gone when the server says so.
    nameserver.addresses(NAME, 1, &[six]);
    nameserver.loses(NAME, &[]);
    until_said(&frontend, "/endpoints", "\"last_error\": null").await;
    let said = frontend.tells("/endpoints").await;
    assert!(!said.contains("127.0.9.1"), "{said}");
}
