use policy::yaml::{self, Problems};

use super::*;

mod reference;

pub(crate) fn read(text: &str) -> Result<Config, Vec<String>> {
    let problems = Problems::new();
    let config = yaml::parse_one("sidecar.yaml", text, &problems)
        .and_then(|node| yaml::map(&node, &problems, Config::read));
    problems
        .or_value(config)
        .map_err(|found| found.iter().map(ToString::to_string).collect())
}

const GOOD: &str = r#"
inbound:
  - {listen: "0.0.0.0:15006", app: "127.0.0.1:8080", protocol: http, mtls: strict}
outbound:
  listen: 127.0.0.1:15001
  services:
    - hosts: ["orders:443", "Orders.Shop.:80", "orders:8080"]
      endpoints: ["10.0.0.7:15006", "[::1]:15006"]
      identity: spiffe://demo.test/ns/shop/sa/orders
      timeout: 5s
    - {hosts: [stock], endpoints: ["stock.test:15006"], identity: spiffe://demo.test/ns/shop/sa/stock}
timeouts: {response: 20s}
accessLog: off
"#;

#[test]
fn good_file_is_read_with_defaults_for_what_it_leaves_out() {
    let config = read(GOOD).unwrap();
    let outbound = config.outbound.unwrap();
    assert_eq!(
        config.inbound[0].app,
        App::from(Endpoint {
            host: "127.0.0.1".to_owned(),
            port: 8080
        })
    );
    assert_eq!(outbound.uids, [rustix::process::geteuid().as_raw()]);
    assert_eq!(
        outbound.services[0].hosts,
        ["orders", "orders.shop", "orders:8080"]
    );
    assert_eq!(
        outbound.services[0].endpoints.to_string(),
        "10.0.0.7:15006, [::1]:15006"
    );
    assert_eq!(outbound.services[0].timeout, Duration::from_secs(5));
    assert_eq!(outbound.services[1].timeout, Duration::from_secs(20));
    assert_eq!(
        config.timeouts,
        Timeouts {
            response: Duration::from_secs(20),
            ..Timeouts::default()
        }
    );
    assert_eq!(config.sizes, Sizes::default());
    assert_eq!(
        config.admin,
        Admin {
            listen: ADMIN_LISTEN,
            socket: None
        }
    );
    assert_eq!(
        (config.access_log, config.workers),
        (AccessLog::Off, WORKERS)
    );
}

#[test]
fn all_problems_are_reported_in_one_run_with_their_lines() {
    let found = read(
        r#"inbound:
  - {listen: "0.0.0.0:15006", app: "127.0.0.1", mtls: lenient}
  - {listen: "127.0.0.1:15006", app: "127.0.0.1:8080", protocol: udp}
outbound:
  listen: 10.0.0.1:15001
  services:
    - {hosts: [orders, ORDERS.], endpoints: [], identity: "spiffe://demo.test/", timeot: 5s}
timeouts: {idle: 0s}
sizes: {maxHeadBytes: 1KiB, maxHeaders: 0, maxMemory: 31MiB}
admin: {listen: "0.0.0.0:15000"}
workers: 0
listener: here
"#,
    )
    .unwrap_err();
    let expected = [
        "sidecar.yaml:2:36: inbound[0].app: expected host:port such as 10.0.0.7:15006, found \"127.0.0.1\": the port is missing",
        "sidecar.yaml:2:55: inbound[0].mtls: expected strict or permissive, found \"lenient\"",
        "sidecar.yaml:3:14: inbound[1].listen: expected an address of its own, found 127.0.0.1:15006, taken in line 2",
        "sidecar.yaml:3:66: inbound[1].protocol: expected http or tcp, found \"udp\"",
        "sidecar.yaml:5:11: outbound.listen: expected a loopback address such as 127.0.0.1:15000, found 10.0.0.1:15001",
        "sidecar.yaml:7:24: outbound.services[0].hosts[1]: expected each host once, found orders again, first in line 7",
        "sidecar.yaml:7:45: outbound.services[0].endpoints: expected at least one endpoint, found none",
        "sidecar.yaml:7:59: outbound.services[0].identity: expected a SPIFFE ID",
        "sidecar.yaml:7:82: outbound.services[0].timeot: unknown key; did you mean `timeout`?",
        "sidecar.yaml:8:18: timeouts.idle: expected more than 0s and at most 24h, found 0ns",
        "sidecar.yaml:9:23: sizes.maxHeadBytes: expected 8KiB to 1MiB, found 1024B",
        "sidecar.yaml:9:41: sizes.maxHeaders: expected 1 to 1000, found 0",
        "sidecar.yaml:9:55: sizes.maxMemory: expected at least 32MiB, found 32505856B",
        "sidecar.yaml:10:17: admin.listen: expected a loopback address such as 127.0.0.1:15000, found 0.0.0.0:15000",
        "sidecar.yaml:11:10: workers: expected 1 to 256, found 0",
        "sidecar.yaml:12:1: listener: unknown key",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            found.starts_with(expected),
            "expected {expected}\nfound    {found}"
        );
    }
}

#[test]
fn outbound_takes_a_unix_socket_with_a_mode() {
    let listen = |keys: &str| {
        read(&format!("outbound: {{{keys}, services: []}}\n"))
            .map(|config| config.outbound.unwrap().listen)
    };
    let unix = |mode| OutboundListen::Unix {
        path: "/run/out.sock".into(),
        mode,
    };
    assert_eq!(listen("listen: 'unix:/run/out.sock'"), Ok(unix(0o600)));
    assert_eq!(
        listen("listen: 'unix:/run/out.sock', mode: '0660'"),
        Ok(unix(0o660))
    );
    for bad in [
        "listen: 'unix:out.sock'",
        "listen: 'unix:/run/out.sock', mode: '0777'",
        "listen: 'unix:/run/out.sock', mode: '0060'",
        "listen: '127.0.0.1:1', mode: '0600'",
        "listen: '127.0.0.1:1', uids: []",
    ] {
        assert_eq!(listen(bad).map_err(|found| found.len()), Err(1), "{bad}");
    }
}

#[test]
fn an_app_may_be_on_a_unix_socket_and_then_has_the_listeners_port() {
    let inbound = |app: &str| {
        read(&format!(
            "inbound: [{{listen: '0.0.0.0:15006', app: '{app}'}}]"
        ))
        .map(|config| config.inbound[0].clone())
    };
    let unix = inbound("unix:/run/app.sock").unwrap();
    assert_eq!(unix.app, Destination::Unix("/run/app.sock".into()).into());
    assert_eq!(unix.port(), Some(15006));
    assert_eq!(inbound("127.0.0.1:8080").unwrap().port(), Some(8080));
    assert_eq!(inbound("original").unwrap().port(), None);
    assert_eq!(
        inbound("unix:app.sock").unwrap_err(),
        [
            "sidecar.yaml:1:42: inbound[0].app: expected an absolute path after unix:, found \"app.sock\""
        ]
    );
}

#[test]
fn a_tcp_service_has_a_listener_of_its_own() {
    let tcp = |service: &str| {
        read(&format!(
            "outbound: {{listen: '127.0.0.1:15001', services: [], tcp: [{service}]}}\n"
        ))
        .map(|config| config.outbound.unwrap().tcp)
    };
    let ends = "endpoints: ['10.0.0.9:15006'], identity: spiffe://demo.test/ns/shop/sa/db";
    let [service] = &tcp(&format!("{{listen: '127.0.0.1:5432', {ends}}}")).unwrap()[..] else {
        panic!("expected one service");
    };
    assert_eq!(
        service.listen,
        Some(OutboundListen::Tcp("127.0.0.1:5432".parse().unwrap()))
    );
    assert_eq!(service.endpoints.to_string(), "10.0.0.9:15006");
    assert!(
        tcp(&format!(
            "{{listen: 'unix:/run/db.sock', mode: '0660', {ends}}}"
        ))
        .is_ok()
    );
    for bad in [
        format!("{{listen: '0.0.0.0:5432', {ends}}}"),
        format!("{{listen: '127.0.0.1:15001', {ends}}}"),
        format!("{{listen: '127.0.0.1:5432', hosts: [db], {ends}}}"),
        "{listen: '127.0.0.1:5432', endpoints: [], identity: spiffe://demo.test/db}".to_owned(),
    ] {
        assert_eq!(tcp(&bad).map_err(|found| found.len()), Err(1), "{bad}");
    }
}

#[test]
fn endpoints_are_addresses_names_srv_names_or_a_file() {
    let endpoints = |keys: &str| {
        let service = format!("{{hosts: [db], {keys}, identity: spiffe://demo.test/db}}");
        let outbound = format!("listen: '127.0.0.1:1', services: [{service}]");
        read(&format!("outbound: {{{outbound}}}"))
            .map(|config| config.outbound.unwrap().services[0].endpoints.clone())
    };
    let name = |host: &str| {
        let host = host.to_owned();
        Source::Name(Endpoint { host, port: 1 })
    };
    for (text, source) in [
        ("10.0.0.7:1", Source::Address("10.0.0.7:1".parse().unwrap())),
        (
            "[fd00::1]:1",
            Source::Address("[fd00::1]:1".parse().unwrap()),
        ),
        ("Orders.Shop:1", name("orders.shop")),
        ("orders.shop.example.:1", name("orders.shop.example.")),
        (
            "srv:_mtls._tcp.orders",
            Source::Srv("_mtls._tcp.orders".to_owned()),
        ),
        (
            "srv:_mtls._tcp.orders.",
            Source::Srv("_mtls._tcp.orders.".to_owned()),
        ),
    ] {
        let listed = endpoints(&format!("endpoints: ['{text}']"));
        assert_eq!(listed, Ok(Endpoints::Listed(vec![source])), "{text}");
    }
    let file = endpoints("endpointsFile: /etc/db.endpoints");
    assert_eq!(file, Ok(Endpoints::File("/etc/db.endpoints".into())));
    for bad in [
        "endpoints: ['orders']",
        "endpoints: ['srv:orders']",
        "endpoints: ['srv:_mtls._tcp.orders:1']",
        "endpoints: ['srv:_mtls._tcp.orders:']",
        "endpoints: ['srv:']",
        "endpoints: ['10.0.0.7:1'], endpointsFile: /etc/db.endpoints",
        "timeout: 1s",
    ] {
        assert_eq!(endpoints(bad).map_err(|found| found.len()), Err(1), "{bad}");
    }
}

#[test]
fn what_is_bound_at_start_needs_a_restart_and_the_rest_does_not() {
    let before = read(GOOD).unwrap();
    let after =
        |from: &str, to: &str| before.restart_needed(&read(&GOOD.replace(from, to)).unwrap());
    assert_eq!(after("20s", "30s"), [""; 0]);
    assert_eq!(after("[stock]", "[stock, store]"), [""; 0]);
    assert_eq!(after("0.0.0.0:15006", "0.0.0.0:15007"), ["inbound"]);
    assert_eq!(
        after("  services:", "  uids: [4711]\n  services:"),
        ["outbound.uids"]
    );
    assert_eq!(
        after("127.0.0.1:15001", "127.0.0.1:15002"),
        ["outbound.listen"]
    );
    assert_eq!(
        after("accessLog: off", "accessLog: stdout\nworkers: 2"),
        ["accessLog", "workers"]
    );
}

#[test]
fn reference_configuration_reads() {
    let text = include_str!("../../../deploy/sidecar.yaml");
    let problems = Problems::new();
    let node = yaml::parse_one("deploy/sidecar.yaml", text, &problems).unwrap();
    let config = yaml::map(&node, &problems, |map| {
        let config = Config::read(map);
        // Read by the binary.
        map.node_of("identity");
        map.node_of("policy");
        config
    });
    let config = problems.or_value(config).unwrap();
    // It writes the defaults out, so it has to be right about them.
    assert_eq!(
        (config.timeouts, config.sizes, config.workers),
        (Timeouts::default(), Sizes::default(), WORKERS)
    );
    assert_eq!(config.admin.listen, ADMIN_LISTEN);
}

#[test]
fn redirected_connections_need_a_listener_that_they_can_reach_and_users_other_than_by_default() {
    let outbound = |more: &str| {
        read(&format!(
            "outbound:\n  {{redirected: true, services: [], {more}}}"
        ))
        .map(|config| config.outbound.unwrap())
    };
    let service = "endpoints: ['10.0.0.9:5432'], identity: spiffe://demo.test/ns/shop/sa/db";
    let good = format!(
        "listen: '127.0.0.1:15001', uids: [1000], tcp: [{{destinations: ['10.0.0.9:5432', 'fd00::/8'], {service}}}]"
    );
    let good = outbound(&good).unwrap();
    assert_eq!(good.tcp[0].listen, None);
    assert_eq!(good.tcp[0].destinations.len(), 2);
    for bad in [
        "listen: '127.0.0.1:15001'".to_owned(),
        "listen: '127.0.0.2:15001', uids: [1000]".to_owned(),
        "listen: '[::1]:15001', uids: [1000]".to_owned(),
        "listen: unix:/run/out.sock, uids: [1000]".to_owned(),
        format!("listen: '127.0.0.1:1', uids: [1], tcp: [{{{service}}}]"),
        format!("listen: '127.0.0.1:1', uids: [1], tcp: [{{destinations: [], {service}}}]"),
        format!("listen: '127.0.0.1:1', uids: [1], tcp: [{{destinations: [db], {service}}}]"),
    ] {
        let refused = outbound(&bad).map_err(|found| found.len());
        assert_eq!(refused, Err(1), "{bad}");
    }
    // Without redirection nothing ever arrives by its destination.
    let direct = format!(
        "outbound: {{listen: '127.0.0.1:1', services: [], tcp: [{{listen: '127.0.0.1:2', destinations: ['fd00::/8'], {service}}}]}}"
    );
    assert_eq!(read(&direct).map_err(|found| found.len()), Err(1));
}

#[test]
fn an_app_that_is_the_sidecar_itself_is_refused() {
    let read = |app: &str| {
        read(&format!(
            "inbound: [{{listen: '0.0.0.0:15006', app: '{app}'}}]\noutbound: {{listen: '127.0.0.1:15001', services: []}}"
        ))
    };
    for app in [
        "127.0.0.1:15006",
        "localhost:15001",
        "0.0.0.0:15001",
        "[::ffff:127.0.0.1]:15001",
        "127.0.0.1:15000",
    ] {
        assert_eq!(read(app).map_err(|found| found.len()), Err(1), "{app}");
    }
    for app in ["127.0.0.1:8080", "10.0.0.7:15001", "orders:15006"] {
        assert!(read(app).is_ok(), "{app}");
    }
}

#[test]
fn how_endpoints_are_used_is_read_or_refused() {
    let service = |keys: &str| {
        read(&format!(
            "outbound: {{listen: '127.0.0.1:15001', services: [{{hosts: [orders], endpoints: ['10.0.0.7:15006'], \
             identity: spiffe://demo.test/ns/shop/sa/orders, timeout: 5s, {keys}}}]}}\n"
        ))
    };
    let off = service("tryTimeout: off, slowStart: off, breaker: off").unwrap();
    let off = &off.outbound.unwrap().services[0].resilience;
    let default = Resilience::default();
    assert_eq!(
        *off,
        Resilience {
            try_timeout: None,
            slow_start: None,
            breaker: None,
            ..default
        }
    );
    for (keys, expected) in [
        (
            "tryTimeout: 0s",
            "expected more than 0s and at most 24h, found 0ns",
        ),
        (
            "tryTimeout: 5s",
            "expected less than the timeout of 5s, found 5s",
        ),
        ("tryTimeout: soon", "found \"soon\""),
        (
            "slowStart: 25h",
            "expected more than 0s and at most 24h, found 90000s",
        ),
        ("maxConnections: 0", "expected 1 to 65535, found 0"),
        ("maxPending: 0", "expected 1 to 1000000, found 0"),
        ("maxPending: off", "found \"off\""),
        ("breaker: on", "expected a map, found \"on\""),
        ("breaker: {failures: 0}", "expected 1 to 1000, found 0"),
        (
            "breaker: {rest: 0s}",
            "expected more than 0s and at most 24h, found 0ns",
        ),
        ("breaker: {rests: 1s}", "rests"),
        ("hash: address", "expected a map, found \"address\""),
        (
            "hash: {}",
            "expected path, identity, {header: NAME} or {cookie: NAME}",
        ),
        (
            "hash: {header: x-user, cookie: user}",
            "expected path, identity, {header: NAME} or {cookie: NAME}",
        ),
        (
            "hash: {header: 'x user'}",
            "expected the name of a header field",
        ),
        ("hash: {cookie: 'a=b'}", "expected the name of a cookie"),
    ] {
        let problems = service(keys).unwrap_err();
        assert_eq!(problems.len(), 1, "{keys}: {problems:?}");
        assert!(problems[0].contains(expected), "{keys}: {problems:?}");
    }
}
