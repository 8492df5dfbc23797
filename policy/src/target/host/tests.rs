use super::*;

#[test]
fn hosts_are_folded() {
    for (value, name, port) in [
        ("api.example.test", "api.example.test", None),
        ("API.Example.Test.", "api.example.test", None),
        ("orders:8080", "orders", Some(8080)),
        ("my_service.:443", "my_service", Some(443)),
        ("127.0.0.1:80", "127.0.0.1", Some(80)),
        ("[::1]", "[::1]", None),
        ("[2001:DB8::0:1]:8443", "[2001:db8::1]", Some(8443)),
        ("xn--bcher-kva.test", "xn--bcher-kva.test", None),
    ] {
        let host = Host::parse(value.as_bytes()).expect(value);
        assert_eq!((host.name(), host.port()), (name, port), "{value}");
    }
}

#[test]
fn what_is_no_host_and_port_is_refused() {
    for value in [
        "",
        ".",
        "..",
        ".a",
        "a..b",
        "a..",
        ":80",
        "a:",
        "a:0",
        "a:080",
        "a:+80",
        "a:65536",
        "a:80:80",
        "a b",
        " a",
        "a\t",
        "a\0",
        "a/b",
        "a#",
        "a?b",
        "a\\b",
        "user@a",
        "user:pw@a",
        "a,b",
        "a%2eb",
        "*.a",
        "xn--\u{e9}.test",
        "127.1",
        "0177.0.0.1",
        "256.0.0.1",
        "2130706433",
        "0x7f000001",
        "::1",
        "[::1",
        "[::1]x",
        "[::1]:",
        "[fe80::1%25eth0]",
        "[v1.a]",
        "[127.0.0.1]",
        "[]",
    ] {
        assert_eq!(
            Host::parse(value.as_bytes()),
            Err(Reject::BadHost),
            "{value:?}"
        );
    }
    assert_eq!(Host::parse(&[b'a'; 254]), Err(Reject::BadHost));
    assert_eq!(Host::parse(b"a\xff"), Err(Reject::BadHost));
}

#[test]
fn a_host_reads_the_same_from_its_canonical_text() {
    for value in ["A.Test.:80", "[::0001]:1", "B", "10.0.0.1"] {
        let host = Host::parse(value.as_bytes()).unwrap();
        assert_eq!(Host::parse(host.to_string().as_bytes()).as_ref(), Ok(&host));
    }
}

#[test]
fn host_and_authority_have_to_agree() {
    let reason = |host: Option<&str>, authority: Option<&str>| {
        agree(host.map(str::as_bytes), authority.map(str::as_bytes), 80)
            .map(|host| host.to_string())
            .map_err(Reject::reason)
    };
    assert_eq!(reason(None, None), Err("missing_host"));
    assert_eq!(reason(Some("a"), None), Ok("a".into()));
    assert_eq!(reason(None, Some("a")), Ok("a".into()));
    assert_eq!(reason(Some("A."), Some("a:80")), Ok("a:80".into()));
    assert_eq!(reason(Some("a"), Some("b")), Err("host_authority_mismatch"));
    assert_eq!(
        reason(Some("a:80"), Some("a:81")),
        Err("host_authority_mismatch")
    );
    assert_eq!(reason(Some("a"), Some("a#")), Err("bad_host"));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_a_host_or_refused(bytes: Vec<u8>) {
        if let Ok(host) = Host::parse(&bytes) {
            proptest::prop_assert!(!host.name().is_empty() && host.name().is_ascii());
        }
    }
}
