//! The metamorphic laws of the corpus. M4 (h1 and h2 agree) needs the proxy's two readers and is tested there.

use proptest::{prelude::*, sample::select};

use super::*;

#[derive(Debug, Clone)]
struct Rule {
    denies: bool,
    path: String,
    method: &'static str,
    expired: bool,
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let segment = select(vec!["a", "b", "admin", "Admin", "{x}"]);
    let path = (
        prop::collection::vec(segment, 0..3),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(segments, rest, slash)| {
            let tail = if rest {
                "/**"
            } else if slash || segments.is_empty() {
                "/"
            } else {
                ""
            };
            format!(
                "{}{}{tail}",
                if segments.is_empty() { "" } else { "/" },
                segments.join("/")
            )
        });
    let rule = (
        any::<bool>(),
        path,
        select(vec!["GET", "POST", "*"]),
        any::<bool>(),
    )
        .prop_map(|(denies, path, method, expired)| Rule {
            denies,
            path,
            method,
            expired,
        });
    prop::collection::vec(rule, 0..6)
}

fn target() -> impl Strategy<Value = String> {
    let segments = vec![
        "a",
        "b",
        "admin",
        "ADMIN",
        "%61dmin",
        "admin.",
        "admin%20x",
        "%41",
        "",
        "..",
        "a;x",
        "x%2Fy",
        "%C3%A9",
        "%EF%BC%A1dmin",
        "%25",
        "%",
        "a%2e",
        "x",
    ];
    prop::collection::vec(select(segments), 1..4)
        .prop_map(|segments| format!("/{}", segments.join("/")))
}

/// Documents named by their place in `rules`, so that an order can be chosen apart from the names.
fn documents(rules: &[Rule]) -> Vec<String> {
    let write = |(index, rule): (usize, &Rule)| {
        let clause = format!(
            "[{{methods: [\"{}\"], path: \"{}\"}}]",
            rule.method, rule.path
        );
        let not_after = if rule.expired {
            "2020-01-01T00:00:00Z"
        } else {
            "2100-01-01T00:00:00Z"
        };
        if rule.denies {
            return guard(&format!("d{index}"), &format!("deny: {clause}"));
        }
        let spec =
            format!("from: [\"{FRONTEND}\"], validity: {{notAfter: {not_after}}}, allow: {clause}");
        document("Grant", &format!("g{index}"), &spec)
    };
    rules.iter().enumerate().map(write).collect()
}

fn compiled(rules: &[Rule]) -> Policy {
    policy(&documents(rules).concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn m1_m3_the_canonical_form_is_read_as_itself_and_decided_alike(rules in rules(), target in target()) {
        let policy = compiled(&rules);
        let first = ask(&policy, "GET", &target, &[]);
        if let Some(path) = first.canonical_path.clone() {
            prop_assert_eq!(ask(&policy, "GET", &path, &[]), first);
        }
    }

    #[test]
    fn m2_no_other_way_to_write_a_path_gets_past_a_guard(rules in rules(), target in target()) {
        let policy = compiled(&rules);
        if ask(&policy, "GET", &target, &[]).reason != "explicit_deny" {
            return Ok(());
        }
        let mut variants = vec![
            target.to_uppercase().replace("%C3", "%c3"),
            target.to_lowercase(),
            format!("{target}/"),
            format!("{target}."),
            format!("{target};x=1"),
            format!("{target}#f"),
            target.replacen('/', "/./", 1),
            target.replacen('/', "//", 1),
            target.replacen("/a", "/%61", 1),
        ];
        variants.extend(target.rfind('/').map(|slash| format!("{}%2F{}", &target[..slash], &target[slash + 1..])));
        for variant in variants {
            prop_assert_ne!(verdict(&policy, "GET", &variant), "allow", "{} of {}", variant, target);
        }
    }

    #[test]
    fn m5_a_grant_never_takes_and_a_guard_never_gives(rules in rules(), more in rules(), target in target()) {
        let before = verdict(&compiled(&rules), "GET", &target);
        for denies in [false, true] {
            let added: Vec<Rule> = more.iter().filter(|rule| rule.denies == denies).cloned().collect();
            let after = verdict(&compiled(&[rules.clone(), added].concat()), "GET", &target);
            let forbidden = if denies { ("deny", "allow") } else { ("allow", "deny") };
            prop_assert_ne!((before, after), forbidden);
        }
    }

    #[test]
    fn m6_order_makes_no_difference(rules in rules(), target in target()) {
        let mut documents = documents(&rules);
        let forward = ask(&policy(&documents.concat()), "GET", &target, &[]);
        documents.reverse();
        let backward = ask(&policy(&documents.concat()), "GET", &target, &[]);
        prop_assert_eq!((forward.decision, forward.rule, forward.reason), (backward.decision, backward.rule, backward.reason));
    }

    #[test]
    fn a_preflight_passes_exactly_where_the_request_does(
        rules in rules(),
        target in target(),
        method in select(vec!["GET", "POST", "PUT"]),
    ) {
        // A grant of all methods grants OPTIONS itself.
        let rules: Vec<Rule> = rules.into_iter().filter(|rule| rule.denies || rule.method != "*").collect();
        let profile = document("HttpProfile", "p", "cors: preflight");
        let policy = policy(&(documents(&rules).concat() + &profile));
        let fields = [("origin", "https://a.example"), ("access-control-request-method", method)];
        let preflight = ask(&policy, "OPTIONS", &target, &fields);
        prop_assert_eq!(preflight.decision.as_str(), verdict(&policy, method, &target));
    }

    #[test]
    fn m7_an_expired_grant_makes_no_difference(rules in rules(), target in target()) {
        let live: Vec<Rule> = rules.iter().filter(|rule| rule.denies || !rule.expired).cloned().collect();
        prop_assert_eq!(verdict(&compiled(&rules), "GET", &target), verdict(&compiled(&live), "GET", &target));
    }
}
