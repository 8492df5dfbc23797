mod partial;

use crate::harness::{
    App, Authority, Caller, FRONTEND, Life, Mood, Nameserver, ORDERS, Reply, Sidecar, grant_all,
    outbound, service, sidecar,
};
use futures_util::future::join_all;
use hickory_resolver::proto::rr::rdata::{CNAME, SRV};
use hickory_resolver::proto::rr::{Name, RData};
use http::StatusCode;
use proxy::ReloadError;
use proxy::config::{Dns, Endpoints};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const HOST: &str = "orders.shop.example";
const NAME: &str = "orders.example.";
/// Longer than a time to live of a second, a retry and two looks at a file take together.
const SOON: Duration = Duration::from_secs(15);

/// A sidecar of the orders service, and the app behind it.
struct Orders {
    app: App,
    at: SocketAddr,
    _sidecar: Sidecar,
}

impl Orders {
    async fn start(authority: &Authority, at: SocketAddr) -> Self {
        let app = App::start().await;
        let svid = authority.svid(ORDERS, Life::Hour);
        let sidecar = sidecar(authority, svid, app.address, &grant_all(), |config| {
            config.inbound[0].listen = at;
        });
        Self {
            app,
            at: sidecar.inbound,
            _sidecar: sidecar,
        }
    }

    /// On the same port of addresses of their own, as the addresses of one name are.
    async fn several<const N: usize>(authority: &Authority) -> [Self; N] {
        let mut all = Vec::new();
        let mut port = 0;
        for number in 0..N as u8 {
            let orders = Self::start(authority, (address(number), port).into()).await;
            port = orders.at.port();
            all.push(orders);
        }
        all.try_into().map_err(|_| "as many").unwrap()
    }
}

fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 9, number + 1).into()
}

/// A front end that asks `nameserver` where the endpoints are.
fn frontend(authority: &Authority, nameserver: SocketAddr, endpoints: Endpoints) -> Sidecar {
    let svid = authority.svid(FRONTEND, Life::Hour);
    let any = SocketAddr::from(([127, 0, 0, 1], 1));
    sidecar(authority, svid, any, "", |config| {
        let mut orders = service(HOST, any, ORDERS);
        orders.endpoints = endpoints;
        let mut outbound = outbound(vec![orders]).unwrap();
        let servers = vec![nameserver];
        outbound.dns = Dns { servers };
        config.outbound = Some(outbound);
        config.timeouts.upstream_connect = Duration::from_secs(2);
    })
}

fn listed(text: &str) -> Endpoints {
    Endpoints::Listed(vec![text.parse().unwrap()])
}

async fn get(frontend: &Sidecar) -> Reply {
    let mut workload = Caller::workload(frontend.outbound()).await;
    workload.get(HOST, "/a").await
}

/// Calls until `done`, and lets no call fail meanwhile. Several at once: one after the other would all go to the endpoint that
/// answers sooner, for as long as the other is remembered as slow.
async fn until(frontend: &Sidecar, what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < SOON, "{what}");
        for reply in join_all((0..4).map(|_| get(frontend))).await {
            assert_eq!(reply.status, StatusCode::OK, "{what}: {reply:?}");
        }
    }
}

/// Waits until the admin side says `text`.
async fn until_said(frontend: &Sidecar, path: &str, text: &str) {
    let start = Instant::now();
    loop {
        let said = frontend.tells(path).await;
        if said.contains(text) {
            return;
        }
        assert!(start.elapsed() < SOON, "expected {text} in {said}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Calls until all of them have gone to one of `all` alone, `only`, time after time.
async fn until_all_go_to(frontend: &Sidecar, all: &[&Orders], only: &Orders) {
    let others = || -> usize {
        let others = all.iter().filter(|orders| orders.at != only.at);
        others.map(|orders| orders.app.requests()).sum()
    };
    let (mut seen, mut quiet) = (others(), 0);
    until(frontend, "all to one", || {
        let now = others();
        quiet = if now == seen { quiet + 1 } else { 0 };
        seen = now;
        quiet > 40
    })
    .await;
}

#[tokio::test]
async fn every_address_of_a_name_is_an_endpoint_and_follows_the_name() {
    for ttl in [0, 1] {
        let authority = Authority::new();
        let [one, two] = Orders::several(&authority).await;
        let nameserver = Nameserver::start().await;
        nameserver.addresses(NAME, ttl, &[address(0), address(1)]);
        let port = one.at.port();
        let frontend = frontend(
            &authority,
            nameserver.address,
            listed(&format!("{NAME}:{port}")),
        );
        until(&frontend, "both", || {
            one.app.requests() > 5 && two.app.requests() > 5
        })
        .await;
        nameserver.addresses(NAME, ttl, &[address(1)]);
        until_all_go_to(&frontend, &[&one, &two], &two).await;

        // Nobody answers any more; then another server does, and says otherwise.
        let at = nameserver.address;
        drop(nameserver);
        until_said(&frontend, "/endpoints", "\"failing_since\": \"").await;
        assert_eq!(get(&frontend).await.status, StatusCode::OK);
        let nameserver = Nameserver::on(at).await;
        nameserver.addresses(NAME, ttl, &[address(0)]);
        until_all_go_to(&frontend, &[&one, &two], &one).await;
        until_said(&frontend, "/endpoints", "\"failing_since\": null").await;
    }
}

#[tokio::test]
async fn what_a_name_stood_for_stays_in_use_while_its_server_says_nothing_of_use() {
    let authority = Authority::new();
    let [orders] = Orders::several(&authority).await;
    let nameserver = Nameserver::start().await;
    nameserver.addresses(NAME, 1, &[address(0)]);
    let name = format!("{NAME}:{}", orders.at.port());
    let frontend = frontend(&authority, nameserver.address, listed(&name));
    assert_eq!(get(&frontend).await.status, StatusCode::OK);
    for (mood, said) in [
        (Mood::NoName, "there is no such name"),
        (Mood::Empty, "the name has no addresses"),
        (Mood::Fails, "the DNS query failed"),
        (Mood::Garbage, "last_error\": \""),
        (Mood::Silent, "found none in time"),
    ] {
        nameserver.is(mood);
        until_said(&frontend, "/endpoints", said).await;
        assert_eq!(get(&frontend).await.status, StatusCode::OK, "{mood:?}");
        nameserver.is(Mood::Well);
        until_said(&frontend, "/endpoints", "\"last_error\": null").await;
    }
    let metrics = frontend.metrics().await;
    let failures = format!("tipstaff_discovery_failures_total{{source=\"{name}\"}}");
    assert!(metrics.contains(&failures), "{metrics}");
    let known = format!("tipstaff_discovered_endpoints{{service=\"{HOST}\"}} 1\n");
    assert!(metrics.contains(&known), "{metrics}");
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_answered_with_that_and_heals() {
    let authority = Authority::new();
    let [orders] = Orders::several(&authority).await;
    let nameserver = Nameserver::start().await;
    let name = format!("{NAME}:{}", orders.at.port());
    let frontend = frontend(&authority, nameserver.address, listed(&name));
    let reply = get(&frontend).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        reply
            .body
            .contains(&format!("no address is known for {name}")),
        "{reply:?}"
    );
    let metrics = frontend.metrics().await;
    let failure =
        "tipstaff_upstream_failures_total{direction=\"outbound\",reason=\"unresolved\"} 1\n";
    assert!(metrics.contains(failure), "{metrics}");

    nameserver.addresses(NAME, 1, &[address(0)]);
    until_said(&frontend, "/endpoints", "127.0.9.1").await;
    assert_eq!(get(&frontend).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_request_that_comes_before_the_first_answer_waits_for_it() {
    let authority = Authority::new();
    let [orders] = Orders::several(&authority).await;
    let nameserver = Nameserver::start().await;
    nameserver.addresses(NAME, 1, &[address(0)]);
    let name = format!("{NAME}:{}", orders.at.port());
    let silent = Nameserver::start().await;
    silent.is(Mood::Silent);
    let first = frontend(&authority, nameserver.address, listed(&name));
    assert_eq!(get(&first).await.status, StatusCode::OK);
    // No longer than for a connection.
    let never = frontend(&authority, silent.address, listed(&name));
    assert_eq!(get(&never).await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn cnames_are_followed_and_answers_that_are_too_large_are_cut() {
    let authority = Authority::new();
    let [orders] = Orders::several(&authority).await;
    let nameserver = Nameserver::start().await;
    for (from, to) in [(NAME, "one.example."), ("one.example.", "two.example.")] {
        let to = Name::from_ascii(to).unwrap();
        nameserver.set(from, 1, [RData::CNAME(CNAME(to))]);
    }
    nameserver.addresses("two.example.", 1, &[address(0)]);
    let name = format!("{NAME}:{}", orders.at.port());
    let frontend = frontend(&authority, nameserver.address, listed(&name));
    assert_eq!(get(&frontend).await.status, StatusCode::OK);

    let many = (0..1000u16).map(|number| {
        let [high, low] = number.to_be_bytes();
        IpAddr::from([127, 1, high, low])
    });
    let many: Vec<IpAddr> = many.collect();
    nameserver.addresses("two.example.", 1, &many);
    let known = format!("tipstaff_discovered_endpoints{{service=\"{HOST}\"}} 256\n");
    until_said(&frontend, "/metrics", &known).await;
}

#[tokio::test]
async fn srv_records_name_endpoints_with_ports_and_priorities_of_their_own() {
    let authority = Authority::new();
    let any = SocketAddr::from(([127, 0, 9, 1], 0));
    let first = Orders::start(&authority, any).await;
    let second = Orders::start(&authority, any).await;
    let nameserver = Nameserver::start().await;
    nameserver.addresses("a.example.", 1, &[address(0)]);
    let srv = |priority, port, target: &str| {
        let target = Name::from_ascii(target).unwrap();
        RData::SRV(SRV::new(priority, 0, port, target))
    };
    let all = [
        srv(10, first.at.port(), "a.example."),
        srv(20, second.at.port(), "a.example."),
        srv(10, 1, "unknown.example."),
    ];
    nameserver.set("_mtls._tcp.orders.example.", 1, all.clone());
    let name = "srv:_mtls._tcp.orders.example.";
    let frontend = frontend(&authority, nameserver.address, listed(name));
    until(&frontend, "the first", || first.app.requests() > 20).await;
    assert_eq!(second.app.requests(), 0);

    nameserver.set("_mtls._tcp.orders.example.", 1, all[1..].iter().cloned());
    until_all_go_to(&frontend, &[&first, &second], &second).await;
    // Of nothing that can be resolved nothing is taken into use.
    nameserver.set("_mtls._tcp.orders.example.", 1, all[2..].iter().cloned());
    until_said(
        &frontend,
        "/endpoints",
        "\"last_error\": \"there is no such name",
    )
    .await;
    assert_eq!(get(&frontend).await.status, StatusCode::OK);
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn a_file_is_followed_and_a_bad_one_changes_nothing() {
    let authority = Authority::new();
    let [one, two] = Orders::several(&authority).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.endpoints");
    replace(&path, &format!("- {}\n", one.at));
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    let frontend = frontend(&authority, nowhere, Endpoints::File(path.clone()));
    assert_eq!(get(&frontend).await.status, StatusCode::OK);

    // 200 requests are on their way when their endpoint leaves.
    let mut calls = tokio::task::JoinSet::new();
    let to = frontend.outbound();
    for _ in 0..200 {
        calls.spawn(async move {
            let mut workload = Caller::workload(to).await;
            workload.get(HOST, "/slow/1500").await.status
        });
    }
    let start = Instant::now();
    while one.app.requests() < 201 {
        assert!(start.elapsed() < SOON, "{}", one.app.requests());
        sleep(Duration::from_millis(5)).await;
    }
    replace(&path, &format!("# moved\n- {}\n", two.at));
    until_all_go_to(&frontend, &[&one, &two], &two).await;
    while let Some(status) = calls.join_next().await {
        assert_eq!(status.unwrap(), StatusCode::OK);
    }

    for (bad, said) in [
        ("- here", "orders.endpoints:1:3"),
        ("[]", "expected at least one endpoint"),
        ("- 10.0.0.1:1\n- [", "not valid YAML"),
    ] {
        replace(&path, bad);
        until_said(&frontend, "/endpoints", said).await;
        assert_eq!(get(&frontend).await.status, StatusCode::OK, "{bad}");
    }
    std::fs::remove_file(&path).unwrap();
    until_said(&frontend, "/endpoints", "cannot read the endpoints in").await;
    assert_eq!(get(&frontend).await.status, StatusCode::OK);
    replace(&path, &format!("[\"{}\"]", one.at));
    until_all_go_to(&frontend, &[&one, &two], &one).await;
}

/// The worker never saw the configuration in between, and kept endpoints that nobody looked for any more.
#[tokio::test]
async fn endpoints_are_followed_after_a_reload_and_one_back_with_no_request_between() {
    let authority = Authority::new();
    let [one, two] = Orders::several(&authority).await;
    let nameserver = Nameserver::start().await;
    nameserver.addresses(NAME, 1, &[address(0)]);
    let name = format!("{NAME}:{}", one.at.port());
    let frontend = frontend(&authority, nameserver.address, listed(&name));
    assert_eq!(get(&frontend).await.status, StatusCode::OK);
    let config = frontend.config.clone();
    let mut other = config.clone();
    other.outbound.as_mut().unwrap().services[0].endpoints = listed(&two.at.to_string());
    frontend.reload.apply(other).unwrap();
    frontend.reload.apply(config).unwrap();
    nameserver.addresses(NAME, 1, &[address(1)]);
    until_all_go_to(&frontend, &[&one, &two], &two).await;
}

#[tokio::test]
async fn a_reload_to_a_file_that_is_missing_is_refused() {
    let authority = Authority::new();
    let [orders] = Orders::several(&authority).await;
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    let frontend = frontend(&authority, nowhere, listed(&orders.at.to_string()));
    let mut config = frontend.config.clone();
    let missing = Endpoints::File("/nowhere/orders.endpoints".into());
    config.outbound.as_mut().unwrap().services[0].endpoints = missing;
    let refused = frontend.reload.apply(config).unwrap_err();
    let ReloadError::Endpoints(error) = refused else {
        panic!("{refused}");
    };
    assert!(
        error.to_string().contains("/nowhere/orders.endpoints"),
        "{error}"
    );
    assert_eq!(get(&frontend).await.status, StatusCode::OK);
}
