use super::*;
use crate::mint::{self, Minted};
use crate::vectors;
use crate::{CertError, Leaf};
use proptest::prelude::*;

#[test]
fn every_spiffe_id_vector_gives_its_spec_reading() {
    let mut failures = Vec::new();
    for case in vectors::read("spiffe_id") {
        let input = vectors::text(&case, "input");
        let expected = match vectors::text(&case, "spec_reading") {
            "accept" => true,
            // Of "lower-case it or reject it" this parser always rejects, and what should be rejected is.
            "reject" | "accept-as-lowercase-or-reject" | "should-reject" => false,
            other => panic!("expected a known reading, found {other:?}"),
        };
        match SpiffeId::parse(input) {
            Ok(id) if expected => {
                let trust_domain = vectors::text(&case, "trust_domain");
                let path = vectors::text(&case, "path");
                if id.trust_domain().as_str() != trust_domain || id.path() != path {
                    failures.push(format!(
                        "{input:?} was taken apart as {id:?} {:?}",
                        id.path()
                    ));
                }
            }
            Err(_) if !expected => {}
            found => failures.push(format!("{input:?} gave {found:?}")),
        }
    }
    vectors::report(&failures);
}

#[test]
fn an_id_may_be_a_leafs_when_the_vectors_say_so() {
    let root = Minted::root();
    let mut failures = Vec::new();
    for case in vectors::read("spiffe_id") {
        let Some(expected) = case["leaf_svid_ok"].as_bool() else {
            continue;
        };
        let input = vectors::text(&case, "input");
        let found = Leaf::parse(&root.sign(mint::leaf(input)).der);
        let as_expected = match &found {
            Ok(leaf) => expected && leaf.id.as_str() == input,
            Err(CertError::LeafWithoutPath { .. }) => !expected,
            Err(_) => false,
        };
        if !as_expected {
            failures.push(format!("{input:?} gave {found:?}"));
        }
    }
    vectors::report(&failures);
}

#[test]
fn every_trust_domain_vector_gives_what_the_implementations_agree_on() {
    // Some implementations turn upper case into lower case. Here nothing is repaired.
    const DEVIATIONS: [&str; 3] = ["Example.Org", "SpIfFe://Example.Org/Service", "TrUsTdOmAiN"];
    let mut failures = Vec::new();
    for case in vectors::read("trust_domain") {
        let input = vectors::text(&case, "input");
        let verdicts = case["impl"].as_object().unwrap();
        let agreed = verdicts.values().all(|verdict| verdict == "accept");
        let expected = agreed && !DEVIATIONS.contains(&input);
        let found = TrustDomain::parse(input);
        if found.is_ok() != expected {
            failures.push(format!("{input:?} gave {found:?}"));
        }
    }
    vectors::report(&failures);
}

#[test]
fn an_error_names_the_rule_and_what_was_found() {
    let long = "a".repeat(256);
    let cases = [
        ("", "expected a SPIFFE ID, found an empty text"),
        (
            "https://a/b",
            "expected an ID that begins with \"spiffe://\", in lower case",
        ),
        ("spiffe:///b", "expected a trust domain, found none"),
        (
            "spiffe://a:1/b",
            "expected a trust domain of a-z, 0-9, '.', '-' and '_', found ':'",
        ),
        ("spiffe://a/", "expected a path without a trailing slash"),
        ("spiffe://a//b", "expected path segments that are not empty"),
        (
            "spiffe://a/../b",
            "expected no relative path segment, found \"..\"",
        ),
        (
            "spiffe://a/b%20",
            "expected path segments of a-z, A-Z, 0-9, '.', '-' and '_', found '%'",
        ),
    ];
    for (input, expected) in cases {
        assert_eq!(SpiffeId::parse(input).unwrap_err().to_string(), expected);
    }
    assert_eq!(
        TrustDomain::parse(&long),
        Err(ParseIdError::TrustDomainTooLong { bytes: 256 })
    );
}

#[test]
fn namespace_and_service_account_need_exactly_that_shape() {
    let cases = [
        ("spiffe://a/ns/n/sa/s", Some(("n", "s"))),
        ("spiffe://a/ns/n/sa/s/more", None),
        ("spiffe://a/x/ns/n/sa/s", None),
        ("spiffe://a/ns/n/sa", None),
        ("spiffe://a/ns/n/m/sa/s", None),
        ("spiffe://a/ns/n", None),
        ("spiffe://a", None),
    ];
    for (input, expected) in cases {
        let id = SpiffeId::parse(input).unwrap();
        assert_eq!(id.namespace(), expected.map(|pair| pair.0), "{input}");
        assert_eq!(id.service_account(), expected.map(|pair| pair.1), "{input}");
    }
}

#[test]
fn reserved_is_the_mesh_path_and_what_lies_below_it() {
    let cases = [
        ("spiffe://a/tipstaff", true),
        ("spiffe://a/tipstaff/ca", true),
        ("spiffe://a/tipstaff/x/y", true),
        ("spiffe://a/tipstaffs", false),
        ("spiffe://a/Tipstaff/ca", false),
        ("spiffe://a/ns/tipstaff/sa/ca", false),
        ("spiffe://a", false),
    ];
    for (input, expected) in cases {
        let id = SpiffeId::parse(input).unwrap();
        assert_eq!(id.is_reserved(), expected, "{input}");
    }
}

#[test]
fn the_cas_identity_is_what_its_text_parses_to() {
    let made = SpiffeId::ca_server(&TrustDomain::parse("prod.example").unwrap());
    let parsed = SpiffeId::parse("spiffe://prod.example/tipstaff/ca").unwrap();
    assert_eq!(made, parsed);
}

proptest! {
    #[test]
    fn a_well_formed_id_round_trips(
        trust_domain in "[a-z0-9._-]{1,255}",
        segments in prop::collection::vec("[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,30}", 0..20),
    ) {
        let path: String = segments.iter().flat_map(|segment| ["/", segment]).collect();
        let text = format!("spiffe://{trust_domain}{path}");
        let id = SpiffeId::parse(&text).unwrap();
        prop_assert_eq!(id.as_str(), &text);
        prop_assert_eq!(id.path(), &path);
        let trust_domain = TrustDomain::parse(&trust_domain).unwrap();
        prop_assert!(id.is_member_of(&trust_domain));
        prop_assert_eq!(id.trust_domain(), trust_domain);
    }

    #[test]
    fn what_parses_is_unchanged_and_of_allowed_characters(
        input in "(spiffe://)?[a-z./]{0,4}\\PC{0,12}[a-z./]{0,8}",
    ) {
        if let Ok(id) = SpiffeId::parse(&input) {
            prop_assert_eq!(id.as_str(), &input);
            let rest = input.strip_prefix("spiffe://").unwrap();
            prop_assert!(rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"./-_".contains(&b)));
            prop_assert!(rest.split('/').all(|part| !part.is_empty()));
            prop_assert!(rest.split('/').skip(1).all(|part| part != "." && part != ".."));
        }
    }
}
