use super::*;
use policy::target::{EmptySegments, EncodedSlash, PathParams};

const STRICT: Profile = Profile {
    encoded_slash: EncodedSlash::Reject,
    path_params: PathParams::Reject,
    empty_segments: EmptySegments::Reject,
};

fn reading(hosts: &Hosts) -> Reading<'_> {
    Reading {
        profile: &STRICT,
        upgrades: Upgrades::Listed(&[]),
        takes_http10: false,
        hosts,
    }
}

fn request(version: Version, target: &str, fields: &[(&str, &str)]) -> http::Request<()> {
    let mut request = http::Request::builder()
        .method("GET")
        .version(version)
        .uri(target);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

fn http1(target: &str, fields: &[(&str, &str)]) -> Result<http::Request<()>, Rejection> {
    normalized(request(Version::HTTP_11, target, fields))
}

fn http2(target: &str, fields: &[(&str, &str)]) -> Result<http::Request<()>, Rejection> {
    normalized(request(Version::HTTP_2, target, fields))
}

fn normalized(request: http::Request<()>) -> Result<http::Request<()>, Rejection> {
    let (mut head, ()) = request.into_parts();
    normalize(&mut head, reading(&Hosts::default()))?;
    Ok(http::Request::from_parts(head, ()))
}

#[test]
fn target_and_host_become_canonical() {
    for (target, host, path, canonical) in [
        ("/a?q=1", "a.example", "/a?q=1", "a.example"),
        ("/%7Ea", "A.Example.", "/~a", "a.example"),
        (
            "/%7Ea?q=%7E",
            "a.example:8080",
            "/~a?q=%7E",
            "a.example:8080",
        ),
        ("http://a.example/x", "a.example", "/x", "a.example"),
    ] {
        let request = http1(target, &[("host", host)]);
        let found = request.map(|request| {
            let host = request.headers()[HOST].to_str().unwrap().to_owned();
            (request.uri().path_and_query().unwrap().to_string(), host)
        });
        assert_eq!(
            found,
            Ok((path.to_owned(), canonical.to_owned())),
            "{target} {host}"
        );
    }
}

#[test]
fn an_authority_becomes_the_host() {
    let request = http2("https://Orders.example/a", &[]).unwrap();
    assert_eq!(request.uri().path_and_query().unwrap(), "/a");
    assert_eq!(request.headers()[HOST], "orders.example");
}

#[test]
fn the_host_that_policy_sees_has_no_port() {
    let request = request(Version::HTTP_11, "/", &[("host", "A.example:8080")]);
    let (mut head, ()) = request.into_parts();
    let normal = normalize(&mut head, reading(&Hosts::default())).unwrap();
    assert_eq!(normal.host(&head.headers), "a.example");
}

#[test]
fn what_two_servers_could_read_differently_is_rejected() {
    let host = ("host", "a.example");
    for (found, expected) in [
        (http1("/", &[]), "missing_host"),
        (http1("/", &[host, host]), "repeated_host"),
        (
            http1("http://b.example/", &[host]),
            "host_authority_mismatch",
        ),
        (
            http2("https://b.example/", &[host]),
            "host_authority_mismatch",
        ),
        (http1("ftp://a.example/", &[host]), "bad_scheme"),
        (http1("/a/../b", &[host]), "dot_segment"),
        (
            http2(
                "https://a.example/",
                &[("content-length", "1"), ("content-length", "1")],
            ),
            "ambiguous_framing",
        ),
        (
            http2("https://a.example/", &[("transfer-encoding", "chunked")]),
            "h2_connection_header",
        ),
        (
            http2("https://a.example/", &[("upgrade", "h2c")]),
            "h2_connection_header",
        ),
        (
            http1("/", &[host, ("upgrade", "websocket")]),
            "upgrade_not_enabled",
        ),
        (
            http1("/", &[host, ("upgrade", "h2c"), ("upgrade", "websocket")]),
            "upgrade_not_enabled",
        ),
        (http1("/", &[host, ("expect", "200-ok")]), "expectation"),
        (
            http1("/", &[host, ("connection", "host")]),
            "h2_connection_header",
        ),
        (
            http1("/", &[host, ("connection", "a b")]),
            "bad_header_value",
        ),
        (
            normalized(request(Version::HTTP_10, "/", &[host])),
            "http_version",
        ),
    ] {
        assert_eq!(found.unwrap_err().reason(), expected);
    }
}

#[test]
fn fields_of_the_hop_and_of_proxies_are_removed() {
    let request = http1(
        "/",
        &[
            ("host", "a.example"),
            ("connection", "x-hop, upgrade"),
            ("x-hop", "1"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA"),
            ("te", "trailers"),
            ("keep-alive", "5"),
            ("forwarded", "host=b.example"),
            ("x-rewrite-url", "/admin"),
            ("x_forwarded-client_cert", "URI=spiffe://prod.example/evil"),
            ("tipstaff_peer", "spiffe://prod.example/evil"),
            ("tipstaff.peer", "spiffe://prod.example/evil"),
            ("x_original_url", "/admin"),
            ("x_http_method_override", "DELETE"),
            ("x_request_id", "kept"),
            ("x-other", "kept"),
            ("traceparent", "kept"),
        ],
    )
    .unwrap();
    let mut left: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["host", "traceparent", "x-other", "x_request_id"]);
}

#[test]
fn trailers_may_be_offered_over_http2() {
    let request = http2("https://a.example/", &[("te", "trailers")]).unwrap();
    assert_eq!(request.headers()[TE], "trailers");
}

#[test]
fn a_method_override_is_left_for_guards_and_then_removed() {
    let fields = [("host", "a.example"), ("X-HTTP-Method-Override", "DELETE")];
    let request = request(Version::HTTP_11, "/", &fields);
    let (mut head, ()) = request.into_parts();
    let normal = normalize(&mut head, reading(&Hosts::default())).unwrap();
    assert!(normal.has_override);
    assert!(head.headers.contains_key(METHOD_OVERRIDES[0]));
    remove_overrides(&mut head.headers);
    assert!(!head.headers.contains_key(METHOD_OVERRIDES[0]));
}

#[test]
fn each_request_without_host_field_gets_its_own_authority_whatever_the_last_one_had() {
    let hosts = Hosts::default();
    for host in ["orders", "orders", "orders.shop", "orders:8080", "orders"] {
        let request = http::Request::get(format!("https://{host}/")).version(Version::HTTP_2);
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        normalize(&mut head, reading(&hosts)).unwrap();
        assert_eq!(head.headers[HOST], host);
    }
}
