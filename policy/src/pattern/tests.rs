use identity::SpiffeId;

use super::*;
use crate::view::Caller;

#[test]
fn path_patterns_match_whole_segments() {
    for (pattern, path, expected) in [
        ("/", "/", true),
        ("/", "/a", false),
        ("/a/{x}", "/a/1", true),
        ("/a/{x}", "/a/", false),
        ("/a/{x}", "/a", false),
        ("/a/{x}", "/a/1/", false),
        ("/a", "/a/", false),
        ("/a", "/A", false),
        ("/a/", "/a/", true),
        ("/public/**", "/public/", true),
        ("/public/**", "/public/a/b", true),
        ("/public/**", "/public", false),
        ("/public/**", "/publicity/a", false),
        ("/**", "/", true),
        ("/**", "/a/b/", true),
        ("/{x}/**", "/a/", true),
        ("/{x}/**", "/a", false),
    ] {
        let parsed: PathPattern = pattern.parse().unwrap();
        assert_eq!(parsed.matches(path), expected, "{pattern} on {path}");
    }
}

#[test]
fn path_patterns_that_no_canonical_request_matches_are_refused() {
    for (pattern, expected) in [
        (
            "",
            "no request can have this path: request target does not start with '/'",
        ),
        (
            "a",
            "no request can have this path: request target does not start with '/'",
        ),
        ("**", "`**` is allowed only as the last segment"),
        ("/a/**/b", "`**` is allowed only as the last segment"),
        (
            "/a**",
            "`*` is no wildcard in a path; write `{name}` for one segment, a final `/**` for the rest",
        ),
        (
            "/a/*",
            "`*` is no wildcard in a path; write `{name}` for one segment, a final `/**` for the rest",
        ),
        (
            "/a{x}",
            "braces stand for one whole segment, as in `/orders/{id}`",
        ),
        (
            "/{}",
            "braces stand for one whole segment, as in `/orders/{id}`",
        ),
        (
            "/foo/../bar",
            "no request can have this path: path has a segment of dots only",
        ),
        (
            "/foo%2Fbar",
            "no request can have this path: path has an encoded slash",
        ),
        (
            "/a//b",
            "no request can have this path: path has an empty segment",
        ),
        (
            "/a;x",
            "no request can have this path: path has ';' parameters",
        ),
        (
            "/%61",
            "requests are matched in canonical form, which is `/a`",
        ),
        (
            "/%c3%a9",
            "requests are matched in canonical form, which is `/%C3%A9`",
        ),
        ("/a?b", "a query string is no part of the path"),
    ] {
        let error = pattern.parse::<PathPattern>().unwrap_err();
        assert_eq!(error.to_string(), expected, "{pattern}");
    }
}

#[test]
fn coverage_and_overlap_agree_with_matching() {
    for (a, b, covers, overlaps) in [
        ("/**", "/a", true, true),
        ("/**", "/", true, true),
        ("/a/**", "/a", false, false),
        ("/a/**", "/a/{x}", true, true),
        ("/a/{x}", "/a/**", false, true),
        ("/{x}", "/a", true, true),
        ("/{x}", "/", false, false),
        ("/a/b", "/a/{x}", false, true),
        ("/a", "/b", false, false),
        ("/a/**", "/{x}/**", false, true),
    ] {
        let (left, right): (PathPattern, PathPattern) = (a.parse().unwrap(), b.parse().unwrap());
        assert_eq!(
            left.sequence().covers(right.sequence()),
            covers,
            "{a} covers {b}"
        );
        assert_eq!(
            left.sequence().overlaps(right.sequence()),
            overlaps,
            "{a} overlaps {b}"
        );
        assert_eq!(
            right.sequence().overlaps(left.sequence()),
            overlaps,
            "{b} overlaps {a}"
        );
    }
}

#[test]
fn identity_patterns_match_literally_but_for_whole_segments() {
    for (pattern, id, expected) in [
        (
            "spiffe://a.test/ns/x/sa/y",
            "spiffe://a.test/ns/x/sa/y",
            true,
        ),
        (
            "spiffe://a.test/ns/x/sa/y.z",
            "spiffe://a.test/ns/x/sa/yXz",
            false,
        ),
        (
            "spiffe://a.test/ns/*/sa/y",
            "spiffe://a.test/ns/x/sa/y",
            true,
        ),
        (
            "spiffe://a.test/ns/*/sa/y",
            "spiffe://a.test/ns/x/q/sa/y",
            false,
        ),
        ("spiffe://a.test/ns/x/**", "spiffe://a.test/ns/x/sa/y", true),
        ("spiffe://a.test/ns/x/**", "spiffe://a.test/ns/x", false),
        ("spiffe://a.test/**", "spiffe://a.test.evil/ns/x", false),
        (
            "spiffe://a.test/ns/x/sa/y",
            "spiffe://b.test/ns/x/sa/y",
            false,
        ),
        ("spiffe://a.test", "spiffe://a.test", true),
        ("spiffe://a.test", "spiffe://a.test/x", false),
        ("unauthenticated", "spiffe://a.test/unauthenticated", false),
    ] {
        let (parsed, id): (IdPattern, SpiffeId) = (pattern.parse().unwrap(), id.parse().unwrap());
        assert_eq!(parsed.matches_id(&id), expected, "{pattern} on {id}");
        assert_eq!(
            parsed.matches(Caller::Unauthenticated),
            pattern == "unauthenticated"
        );
    }
}

#[test]
fn unusable_identity_patterns_are_refused() {
    for (pattern, expected) in [
        ("ns/x/sa/y", PatternError::NotSpiffe),
        ("SPIFFE://a.test/x", PatternError::NotSpiffe),
        ("*", PatternError::NotSpiffe),
        ("spiffe://*/ns/x/sa/y", PatternError::WildcardTrustDomain),
        ("spiffe://*.test/x", PatternError::WildcardTrustDomain),
        ("spiffe://a.test/**/x", PatternError::RestInside),
        ("spiffe://a.test/ns/x*", PatternError::PartialStar),
    ] {
        assert_eq!(pattern.parse::<IdPattern>(), Err(expected), "{pattern}");
    }
    assert!("spiffe://a.test/ns//x".parse::<IdPattern>().is_err());
    assert!("spiffe://A.test/ns/x".parse::<IdPattern>().is_err());
}

#[test]
fn only_patterns_below_a_namespace_are_within_it() {
    for (pattern, expected) in [
        ("spiffe://a.test/ns/shop/sa/y", true),
        ("spiffe://a.test/ns/shop/**", true),
        ("spiffe://a.test/ns/shop", false),
        ("spiffe://a.test/ns/*/sa/y", false),
        ("spiffe://a.test/ns/shopping/sa/y", false),
        ("spiffe://a.test/**", false),
        ("unauthenticated", false),
    ] {
        assert_eq!(
            pattern.parse::<IdPattern>().unwrap().is_within("shop"),
            expected,
            "{pattern}"
        );
    }
}

#[test]
fn hosts_fold_case_and_ignore_ports() {
    for (pattern, host, expected) in [
        ("API.example.test", "api.example.test", true),
        ("api.example.test.", "api.example.test", true),
        ("*.example.test", "api.example.test", true),
        ("*.example.test", "example.test", false),
        ("*.example.test", "a.b.example.test", false),
    ] {
        let parsed: HostPattern = pattern.parse().unwrap();
        assert_eq!(parsed.matches(host), expected, "{pattern} on {host}");
    }
    assert!("a/b".parse::<HostPattern>().is_err());
    assert!("*".parse::<HostPattern>().is_err());
    assert_eq!(
        "a.test:8080".parse::<HostPattern>(),
        Err(PatternError::HostPort)
    );
}

#[test]
fn methods_are_case_sensitive_tokens() {
    assert_eq!(
        "get".parse::<Method>(),
        Err(PatternError::MethodCase("GET".to_owned()))
    );
    assert_eq!("GE T".parse::<Method>(), Err(PatternError::Method));
    let methods = Methods::Listed(vec!["GET".parse().unwrap()].into());
    assert!(methods.contains("GET") && !methods.contains("get") && !methods.contains("HEAD"));
    assert!(methods.contains_folded(b"get"));
}

/// One field under one name.
struct Field(&'static str, &'static [&'static str]);

impl crate::Headers for Field {
    fn values(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        if name == self.0 {
            self.1.iter().for_each(|value| see(value.as_bytes()));
        }
    }
}

#[test]
fn a_header_condition_is_narrow_in_a_grant_and_wide_in_a_guard() {
    let exact = HeaderTest::OneOf(vec!["a".to_owned()]);
    for (test, values, grant, guard) in [
        (&exact, &["a"][..], true, true),
        (&exact, &["A"], false, true),
        (&exact, &["a", "a"], false, true),
        (&exact, &["b", "a"], false, true),
        (&exact, &["b, a"], false, true),
        (&exact, &["a,"], false, true),
        (&exact, &["\"a\""], false, true),
        (&exact, &["b"], false, false),
        (&exact, &[], false, false),
        (&HeaderTest::Present(true), &["x"], true, true),
        (&HeaderTest::Present(true), &["x", "y"], false, true),
        (&HeaderTest::Present(true), &[], false, false),
        (&HeaderTest::Present(true), &[""], false, true),
        (&HeaderTest::Present(false), &[], true, true),
        (&HeaderTest::Present(false), &[" "], false, true),
        (&HeaderTest::Present(false), &["x"], false, false),
    ] {
        let rule = HeaderRule {
            name: "x-tenant".to_owned(),
            test: test.clone(),
        };
        let field = Field("x-tenant", values);
        assert_eq!(
            rule.holds_alone(&field),
            grant,
            "grant: {test:?} on {values:?}"
        );
        assert_eq!(
            rule.holds_somewhere(&field),
            guard,
            "guard: {test:?} on {values:?}"
        );
    }
}
