use super::*;
use crate::config::tests::read;

/// `outbound.external` with these entries.
fn external(redirected: bool, entries: &str) -> Result<Vec<External>, Vec<String>> {
    let text = format!(
        "outbound: {{listen: '127.0.0.1:15001', redirected: {redirected}, uids: [1000], services: [{{hosts: [orders], endpoints: ['10.0.0.7:1'], identity: spiffe://demo.test/ns/shop/sa/orders}}], external: [{entries}]}}"
    );
    read(&text).map(|config| config.outbound.unwrap().external)
}

/// A file of one root.
fn roots() -> tempfile::NamedTempFile {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let file = tempfile::NamedTempFile::new().unwrap();
    let root = params.self_signed(&key).unwrap();
    std::fs::write(file.path(), root.pem()).unwrap();
    file
}

#[test]
fn each_way_out_is_read() {
    let roots = roots();
    let path = roots.path().display();
    let entries = external(
        true,
        &format!(
            "{{hosts: [API.example.com., '*.files.example'], ports: [443, 8443], tls: originate, roots: '{path}', timeout: 5s}},
             {{hosts: [plain.example], ports: [80], tls: none, endpoints: ['192.0.2.1:8080']}},
             {{hosts: [api.example.com], ports: [443], tls: passthrough}},
             {{hosts: [db.example], ports: [5432], tls: none, listen: '127.0.0.1:5432'}},
             {{destinations: [192.0.2.0/24, '192.0.2.9:25'], ports: [25], tls: none}}"
        ),
    );
    let entries = entries.unwrap();
    let [originate, plain, passthrough, opaque, address] = &entries[..] else {
        panic!("expected five entries, found {entries:?}");
    };
    assert!(originate.is_http() && plain.is_http() && passthrough.is_by_server_name());
    assert!(!opaque.is_http() && !address.is_http() && !opaque.is_by_server_name());
    assert_eq!(originate.names("api.example.com"), Some(Closeness::Exact));
    assert_eq!(
        originate.names("a.files.example"),
        Some(Closeness::Wildcard)
    );
    for other in [
        "files.example",
        "a.b.files.example",
        ".files.example",
        "example.com",
    ] {
        assert_eq!(originate.names(other), None, "{other}");
    }
    assert!(address.has_address("192.0.2.9:25".parse().unwrap()));
    for other in ["192.0.2.9:26", "192.0.3.9:25"] {
        assert!(!address.has_address(other.parse().unwrap()), "{other}");
    }
    // Who has a listener is reached by that alone.
    let listening = External {
        listen: opaque.listen.clone(),
        ..address.clone()
    };
    assert!(!listening.has_address("192.0.2.9:25".parse().unwrap()));
}

#[test]
fn what_says_too_little_or_too_much_is_refused_where_it_stands() {
    for (entry, expected) in [
        (
            "hosts: [a.example], ports: [443]",
            ": expected the key `tls`, which is missing",
        ),
        (
            "hosts: [a.example], tls: none",
            ": expected the key `ports`, which is missing",
        ),
        (
            "ports: [1], tls: none",
            ": expected either hosts or destinations",
        ),
        (
            "hosts: [a.example], destinations: [192.0.2.1], ports: [1], tls: none",
            ": expected either hosts or destinations",
        ),
        (
            "hosts: [a.example], ports: [1], tls: maybe",
            ".tls: expected passthrough, originate or none, found \"maybe\"",
        ),
        (
            "hosts: [orders], ports: [1], tls: none",
            ".hosts[0]: expected each host once, found orders again, first in line 1",
        ),
        (
            "hosts: ['a.example:80'], ports: [1], tls: none",
            "ports stand under `ports`",
        ),
        (
            "hosts: [192.0.2.1], ports: [1], tls: none",
            "it is not a DNS name",
        ),
        (
            "hosts: ['*'], ports: [1], tls: none",
            "it is not a DNS name",
        ),
        (
            "hosts: ['a.*.example'], ports: [1], tls: none",
            "it is not a DNS name",
        ),
        (
            "hosts: [a.example], ports: [0], tls: none",
            ".ports[0]: expected 1 to 65535, found 0",
        ),
        (
            "hosts: [a.example], ports: [443], tls: passthrough",
            ": expected listen: outbound is not redirected",
        ),
        (
            "hosts: [a.example], ports: [1], tls: none, roots: /x",
            ".roots: expected none: only with `tls: originate` is a server verified by us",
        ),
        (
            "hosts: [a.example], ports: [1], tls: originate, roots: /nowhere/roots.pem",
            ".roots: cannot read /nowhere/roots.pem: No such file",
        ),
        (
            "hosts: [a.example], ports: [1], tls: originate, roots: /dev/null",
            ".roots: expected a file of at most 4 MiB, found /dev/null",
        ),
        (
            "hosts: [a.example], ports: [1], tls: originate, roots: Cargo.toml",
            ".roots: expected certificates in PEM, found none that can be used in Cargo.toml",
        ),
        (
            "destinations: [192.0.2.1], tls: none",
            ": expected listen: outbound is not redirected",
        ),
        (
            "destinations: ['192.0.2.1:1'], tls: passthrough, listen: '127.0.0.1:1'",
            ": expected `tls: none` beside destinations",
        ),
        (
            "destinations: [192.0.2.1], tls: none, listen: '127.0.0.1:1'",
            ": expected one address and port beside listen",
        ),
        (
            "hosts: [a.example, b.example], ports: [1], tls: none, listen: '127.0.0.1:1'",
            ": expected one host without a wildcard beside listen",
        ),
        (
            "hosts: ['*.example'], ports: [1, 2], tls: passthrough, listen: '127.0.0.1:1'",
            ": expected one port beside listen, found 2",
        ),
        (
            "hosts: [a.example], ports: [1], tls: none, listen: '192.0.2.1:1'",
            ".listen: expected a loopback address",
        ),
    ] {
        let problems = external(false, &format!("{{{entry}}}")).unwrap_err();
        let [problem] = &problems[..] else {
            panic!("{entry}: {problems:#?}");
        };
        let text = problem.split_once("outbound.external[0]").unwrap().1;
        assert!(
            text.contains(expected),
            "{entry}\nexpected {expected}\nfound    {problem}"
        );
    }
}

#[test]
fn only_its_listener_makes_an_entry_need_a_restart() {
    let config = |entry: &str| {
        let entry = format!("{{hosts: [a.example], tls: none, {entry}}}");
        read(&format!(
            "outbound: {{listen: '127.0.0.1:15001', services: [], external: [{entry}]}}"
        ))
        .unwrap()
    };
    let (http, other) = (config("ports: [80]"), config("ports: [8080]"));
    let opaque = config("ports: [80], listen: '127.0.0.1:5432'");
    assert_eq!(http.restart_needed(&other), [""; 0]);
    let elsewhere = config("ports: [81], listen: '127.0.0.1:5432'");
    assert_eq!(opaque.restart_needed(&elsewhere), [""; 0]);
    let moved = config("ports: [80], listen: '127.0.0.1:5433'");
    for (before, after) in [(&http, &opaque), (&opaque, &http), (&opaque, &moved)] {
        let keys = before.restart_needed(after);
        assert_eq!(keys, ["outbound.external.listen"]);
    }
}
