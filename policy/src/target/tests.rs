use super::*;

mod laws;
mod vectors;

const STRICT: Profile = Profile {
    encoded_slash: EncodedSlash::Reject,
    path_params: PathParams::Reject,
    empty_segments: EmptySegments::Reject,
};
fn path(target: &str, profile: &Profile) -> Result<String, Reject> {
    canonicalise(target.as_bytes(), profile).map(|target| target.path.into_owned())
}

#[test]
fn canonical_paths_are_borrowed() {
    for target in [
        "/",
        "/a",
        "/a/",
        "/api/v1/orders/42?x=/../",
        "/.well-known/acme",
        "/a..b/c.",
        "/public/!$&'()*+,=:@-_~",
        "/a%20b/%C3%A9",
        "/100%25",
    ] {
        let target = canonicalise(target.as_bytes(), &STRICT).expect(target);
        assert!(matches!(target.path, Cow::Borrowed(_)), "{target:?}");
    }
}

#[test]
fn other_spellings_get_the_canonical_path() {
    for (target, canonical) in [
        ("/%61dmin", "/admin"),
        ("/%7Euser", "/~user"),
        ("/%c3%a9", "/%C3%A9"),
        ("/%3a%3A:", "/%3A%3A:"),
        ("/a%2Eb", "/a.b"),
        ("/%41%c3%a9%42/%63", "/A%C3%A9B/c"),
    ] {
        assert_eq!(path(target, &STRICT).as_deref(), Ok(canonical), "{target}");
    }
}

#[test]
fn the_strict_profile_refuses_what_servers_read_differently() {
    for (target, reason) in [
        ("", "path_not_absolute"),
        ("*", "path_not_absolute"),
        ("admin", "path_not_absolute"),
        ("?x", "path_not_absolute"),
        ("api.example.test:443", "path_not_absolute"),
        ("a/b://c/d", "path_not_absolute"),
        ("ftp://api.example.test/", "bad_scheme"),
        ("https://api.example.test/", "bad_scheme"),
        ("http:///a", "bad_host"),
        ("http://user@api.example.test/a", "bad_host"),
        ("http://api.example.test\\@evil.test/a", "bad_host"),
        ("/a b", "bad_target_char"),
        ("/a\t", "bad_target_char"),
        ("/a\u{e9}", "bad_target_char"),
        ("/a[1]", "bad_target_char"),
        ("/a`", "bad_target_char"),
        ("/a|b", "bad_target_char"),
        ("/a#b", "bad_target_char"),
        ("/a?b#c", "bad_target_char"),
        ("/a?b c", "bad_target_char"),
        ("/a?b\x7f", "bad_target_char"),
        ("/%", "bad_percent_encoding"),
        ("/%4", "bad_percent_encoding"),
        ("/%+1", "bad_percent_encoding"),
        ("/%4g", "bad_percent_encoding"),
        ("/%C3%", "bad_percent_encoding"),
        ("/a%2fb", "encoded_slash"),
        ("/a%5cb", "encoded_backslash"),
        ("/a%0D%0Ab", "encoded_control"),
        ("/a%3fb", "encoded_delimiter"),
        ("/a%23b", "encoded_delimiter"),
        ("/a%3bb", "encoded_delimiter"),
        ("/%2541", "double_encoding"),
        ("/%25%34%31", "double_encoding"),
        ("/%252%46", "double_encoding"),
        ("/%C3", "invalid_utf8"),
        ("/%C3a", "invalid_utf8"),
        ("/%A9", "invalid_utf8"),
        ("/%C0%AE", "invalid_utf8"),
        ("/%ED%A0%80", "invalid_utf8"),
        ("/%F4%90%80%80", "invalid_utf8"),
        ("/%EF%BC%8F", "compat_delimiter"),
        ("/%E2%80%A5", "compat_delimiter"),
        ("/%E2%84%80", "compat_delimiter"),
        ("/%CD%BE", "compat_delimiter"),
        ("//", "empty_segment"),
        ("//a", "empty_segment"),
        ("/a//b", "empty_segment"),
        ("/a;b", "path_parameters"),
        ("/..;/a", "path_parameters"),
        ("/.", "dot_segment"),
        ("/a/..", "dot_segment"),
        ("/a/.../b", "dot_segment"),
        ("/%2e%2E", "dot_segment"),
        ("/%20a", "segment_edge_space"),
        ("/a%20/b", "segment_edge_space"),
        ("/a%C2%A0", "segment_edge_space"),
        ("/%EF%BB%BFa", "segment_edge_space"),
    ] {
        assert_eq!(
            path(target, &STRICT).map_err(Reject::reason),
            Err(reason),
            "{target:?}"
        );
    }
}

#[test]
fn opt_ins_take_what_they_name_and_nothing_else() {
    let opaque = Profile {
        encoded_slash: EncodedSlash::Opaque,
        ..STRICT
    };
    let params = Profile {
        path_params: PathParams::Literal,
        ..STRICT
    };
    let empty = Profile {
        empty_segments: EmptySegments::Literal,
        ..STRICT
    };
    for (profile, target, expected) in [
        (opaque, "/p/group%2fproject/x", Ok("/p/group%2Fproject/x")),
        (opaque, "/p/..%2fx", Err("dot_segment")),
        (opaque, "/p/a%2F%2Fx", Err("empty_segment")),
        (opaque, "/p/%2Fx", Err("empty_segment")),
        (opaque, "/p/x%2F", Err("empty_segment")),
        (opaque, "/p/a%20%2Fx", Err("segment_edge_space")),
        (opaque, "/a%5Cb", Err("encoded_backslash")),
        (opaque, "/a;b", Err("path_parameters")),
        (params, "/m/a;b=1/c", Ok("/m/a;b=1/c")),
        (params, "/m/..;x/c", Err("dot_segment")),
        (params, "/m/;x/c", Err("empty_segment")),
        (params, "/m/a%20;x", Err("segment_edge_space")),
        (params, "/m/a%3Bx", Err("encoded_delimiter")),
        (empty, "//a//", Ok("//a//")),
        (empty, "//..//", Err("dot_segment")),
    ] {
        let path = path(target, &profile).map_err(Reject::reason);
        assert_eq!(
            path.as_deref().map_err(|reason| *reason),
            expected,
            "{target} {profile:?}"
        );
    }
}

#[test]
fn absolute_form_gives_its_authority() {
    for (target, path, query) in [
        ("http://Api.example.test", "/", None),
        ("http://Api.example.test?x", "/", Some("x")),
        ("http://Api.example.test/%61?", "/a", Some("")),
        ("hTTp://Api.example.test/a", "/a", None),
    ] {
        let expected = Target {
            path: path.into(),
            query,
            authority: Some("Api.example.test"),
        };
        assert_eq!(
            canonicalise(target.as_bytes(), &STRICT),
            Ok(expected),
            "{target}"
        );
        let h2 = canonicalise_path(target.as_bytes(), &STRICT);
        assert_eq!(h2, Err(Reject::NotAbsolute), "a :path is no URL: {target}");
    }
}

#[test]
fn queries_pass_byte_for_byte() {
    for query in [
        "",
        "?",
        "a=%zz&b=%2e%2e",
        "x=[1]|\\{}\"<>^`",
        "q=\u{e9}",
        "//../;",
    ] {
        let target = format!("/a?{query}");
        let target = canonicalise(target.as_bytes(), &STRICT).expect(query);
        assert_eq!(target.query, Some(query));
    }
    assert_eq!(canonicalise(b"/a?\xff", &STRICT), Err(Reject::InvalidUtf8));
}

#[test]
fn a_target_over_the_limit_is_414() {
    let longest = format!("/{}", "a".repeat(MAX_TARGET_BYTES - 1));
    assert!(canonicalise(longest.as_bytes(), &STRICT).is_ok());
    let reject = canonicalise(format!("{longest}a").as_bytes(), &STRICT).unwrap_err();
    assert_eq!((reject, reject.status()), (Reject::TooLong, 414));
}

#[test]
fn methods_that_tunnel_echo_or_differ_in_case_alone_are_refused() {
    for (method, expected) in [
        ("GET", Ok(())),
        ("PROPFIND", Ok(())),
        ("M-SEARCH", Ok(())),
        ("CONNECT", Err(Reject::Connect)),
        ("TRACE", Err(Reject::Trace)),
        ("get", Err(Reject::Method)),
        ("Get", Err(Reject::Method)),
        ("connect", Err(Reject::Method)),
        ("", Err(Reject::Method)),
        ("GET /", Err(Reject::Method)),
    ] {
        assert_eq!(check_method(method), expected, "{method}");
    }
}
