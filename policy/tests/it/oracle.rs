//! The engine against an oracle that is as dull as possible, and against the ways in which servers read a path.

use proptest::{prelude::*, sample::select};
use serde_json::Value;

use super::normalisers::NORMALISERS;
use super::*;

const CORPUS: &str = include_str!("../../../tests/vectors/http/path_bypass_sample.json");

/// One rule as both sides get it.
#[derive(Debug, Clone)]
struct Rule {
    denies: bool,
    methods: Vec<&'static str>,
    /// Of literals and `{x}`; then `/**`, if `rest`.
    segments: Vec<&'static str>,
    rest: bool,
    hosts: Vec<&'static str>,
}

impl Rule {
    fn pattern(&self) -> String {
        let tail = if self.rest { "/**" } else { "" };
        format!("/{}{tail}", self.segments.join("/"))
    }

    fn document(&self, name: &str) -> String {
        let methods: Vec<String> = self
            .methods
            .iter()
            .map(|method| format!("\"{method}\""))
            .collect();
        let hosts = if self.hosts.is_empty() {
            String::new()
        } else {
            format!(", hosts: [\"{}\"]", self.hosts.join("\", \""))
        };
        let clause = format!(
            "[{{methods: [{}], path: \"{}\"{hosts}}}]",
            methods.join(", "),
            self.pattern()
        );
        if self.denies {
            guard(name, &format!("deny: {clause}"))
        } else {
            grant(name, &format!("allow: {clause}"))
        }
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    let segment = select(vec!["a", "b", "admin", "Admin", "api", "{x}", "{y}", "v1"]);
    let methods = prop::collection::vec(select(vec!["GET", "POST", "DELETE", "*"]), 1..3);
    let host = select(vec![
        "shop.example",
        "other.example",
        "*.example",
        "a.shop.example",
    ]);
    let hosts = prop::collection::vec(host, 0..2);
    (
        any::<bool>(),
        methods,
        prop::collection::vec(segment, 1..4),
        any::<bool>(),
        hosts,
    )
        .prop_map(|(denies, mut methods, segments, rest, hosts)| {
            methods.sort_unstable();
            methods.dedup();
            if methods.contains(&"*") {
                methods = vec!["*"];
            }
            Rule {
                denies,
                methods,
                segments,
                rest,
                hosts,
            }
        })
}

fn compiled(rules: &[Rule]) -> Policy {
    let documents = rules
        .iter()
        .enumerate()
        .map(|(index, rule)| rule.document(&format!("r{index}")));
    policy(&documents.collect::<String>())
}

/// What is asked: plain words only, since it is the rules that are compared here.
fn question() -> impl Strategy<Value = (&'static str, String, &'static str)> {
    let segment = select(vec![
        "a", "b", "admin", "Admin", "ADMIN", "admin.", "api", "v1", "V1", "x", "",
    ]);
    let path = prop::collection::vec(segment, 1..5).prop_filter_map("strict paths", |segments| {
        let (last, before) = segments.split_last()?;
        let is_strict = before.iter().all(|segment| !segment.is_empty());
        is_strict.then(|| {
            format!(
                "/{}{}{last}",
                before.join("/"),
                if before.is_empty() { "" } else { "/" }
            )
        })
    });
    let method = select(vec!["GET", "POST", "DELETE", "HEAD"]);
    let host = select(vec![
        "shop.example",
        "SHOP.example.",
        "shop.example:80",
        "other.example",
        "a.shop.example",
        "a.b.shop.example",
        "example",
    ]);
    (method, path, host)
}

/// Segment by segment, as a reader of POLICY would do it with a pencil.
fn oracle(rules: &[Rule], method: &str, path: &str, host: &str) -> &'static str {
    let matches = |rule: &&Rule| {
        rule.methods
            .iter()
            .any(|allowed| *allowed == "*" || *allowed == method)
            && (rule.hosts.is_empty()
                || rule.hosts.iter().any(|pattern| host_matches(pattern, host)))
            && path_matches(rule, path)
    };
    if rules
        .iter()
        .filter(|rule| rule.denies)
        .any(|rule| matches(&rule))
    {
        "deny"
    } else if rules
        .iter()
        .filter(|rule| !rule.denies)
        .any(|rule| matches(&rule))
    {
        "allow"
    } else {
        "deny"
    }
}

fn host_matches(pattern: &str, host: &str) -> bool {
    let host = host.to_lowercase();
    let host = host.strip_suffix(":80").unwrap_or(&host);
    let host = host.strip_suffix('.').unwrap_or(host);
    match pattern.strip_prefix("*.") {
        None => pattern == host,
        Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest == parent),
    }
}

fn path_matches(rule: &Rule, path: &str) -> bool {
    if path_matches_plainly(rule, path) {
        return true;
    }
    // A guard looks at what a careless server may make of the path, too.
    let folded: Vec<String> = path
        .to_lowercase()
        .split('/')
        .skip(1)
        .map(|segment| segment.trim_end_matches('.').to_owned())
        .collect();
    let folded = folded.join("/");
    let folded = folded.trim_end_matches('/');
    let lower = |segment: &&'static str| -> &'static str {
        match *segment {
            "Admin" => "admin",
            other => other,
        }
    };
    let rule = Rule {
        segments: rule.segments.iter().map(lower).collect(),
        ..rule.clone()
    };
    rule.denies
        && (path_matches_plainly(&rule, &format!("/{folded}"))
            || rule.rest
                && path_matches_plainly(
                    &Rule {
                        rest: false,
                        ..rule
                    },
                    &format!("/{folded}"),
                ))
}

fn path_matches_plainly(rule: &Rule, path: &str) -> bool {
    let mut found = path.split('/').skip(1);
    for wanted in &rule.segments {
        let Some(segment) = found.next() else {
            return false;
        };
        let is_variable = wanted.starts_with('{');
        if is_variable && segment.is_empty() || !is_variable && segment != *wanted {
            return false;
        }
    }
    let left = found.count();
    if rule.rest { left > 0 } else { left == 0 }
}

fn decided(policy: &Policy, method: &str, path: &str, host: &str) -> &'static str {
    ask(policy, method, path, &[("host", host)])
        .decision
        .as_str()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn engine_and_oracle_agree(rules in prop::collection::vec(rule(), 0..8), questions in prop::collection::vec(question(), 16)) {
        let policy = compiled(&rules);
        for (method, path, host) in questions {
            let expected = oracle(&rules, method, &path, host);
            prop_assert_eq!(decided(&policy, method, &path, host), expected, "{} {} at {}", method, path, host);
        }
    }

    /// Whatever is granted beside the guard, and however the path is written.
    #[test]
    fn nothing_that_a_normaliser_maps_under_a_guarded_path_is_allowed(
        rules in prop::collection::vec(rule(), 0..6),
        target in spelling(),
    ) {
        let policy = guarded(&rules);
        prop_assert!(!is_let_under_admin(&policy, &target), "{}", target);
    }

    #[test]
    fn a_canonical_path_is_its_own_canonical_path(target in spelling()) {
        let policy = guarded(&[]);
        if let Some(path) = ask(&policy, "GET", &target, &[]).canonical_path {
            prop_assert_eq!(ask(&policy, "GET", &path, &[]).canonical_path, Some(path));
        }
    }
}

/// Everything is granted and more; `/admin` is guarded.
fn guarded(rules: &[Rule]) -> Policy {
    let grants = rules.iter().filter(|rule| !rule.denies).enumerate();
    let more: String = grants
        .map(|(index, rule)| rule.document(&format!("r{index}")))
        .collect();
    let all = grant("all", "allow: [{methods: [\"*\"], path: \"/**\"}]");
    policy(&(all + &more + &guard("no-admin", "deny: [{path: \"/admin/**\"}]")))
}

/// Every target of the corpus, on its own, behind and in front of pieces that make another path of it.
#[test]
fn no_row_of_the_corpus_in_any_variation_gets_under_a_guarded_path() {
    let corpus: Value = serde_json::from_str(CORPUS).unwrap();
    let policy = guarded(&[]);
    let (mut asked, mut allowed) = (0, 0);
    for row in corpus["vectors"].as_array().unwrap() {
        let target = match row["request"]["line"].as_str() {
            Some(line) => line.split(' ').nth(1).unwrap_or_default(),
            None => continue,
        };
        for variation in variations(target) {
            for method in ["GET", "POST", "DELETE", "PROPFIND"] {
                asked += 1;
                assert!(
                    !is_let_under_admin_by(&policy, method, &variation),
                    "{method} {variation}"
                );
                allowed += usize::from(verdict(&policy, method, &variation) == "allow");
            }
        }
    }
    assert!(asked > 5_000 && allowed > 500, "{allowed} of {asked}");
}

fn variations(target: &str) -> Vec<String> {
    let mut all = vec![
        target.to_owned(),
        target.to_uppercase(),
        target.replace("public", "admin"),
    ];
    for piece in [
        "/admin",
        "/%61dmin",
        "/ADMIN",
        "/admin%2e",
        "/x/..",
        "/x/%2e%2e",
        "/.",
        "//",
        "/;x",
        "/%20",
    ] {
        all.push(format!("{piece}{target}"));
        all.push(format!("{target}{piece}"));
    }
    all
}

fn is_let_under_admin(policy: &Policy, target: &str) -> bool {
    is_let_under_admin_by(policy, "GET", target)
}

fn is_let_under_admin_by(policy: &Policy, method: &str, target: &str) -> bool {
    let found = ask(policy, method, target, &[]);
    if found.decision.as_str() != "allow" {
        return false;
    }
    // Both what was sent and what would be forwarded.
    let forwarded = found.canonical_path.unwrap_or_default();
    NORMALISERS.iter().any(|normalise| {
        [target, &forwarded]
            .iter()
            .any(|path| is_under_admin(&normalise(path)))
    })
}

fn is_under_admin(path: &str) -> bool {
    path == "/admin" || path.starts_with("/admin/")
}

/// Pieces that servers read in different ways.
fn spelling() -> impl Strategy<Value = String> {
    let piece = select(vec![
        "/",
        "/",
        "/",
        "admin",
        "admin",
        "Admin",
        "ADMIN",
        "adm%69n",
        "%61dmin",
        "%2561dmin",
        "adm\u{131}n",
        "%EF%BD%81dmin",
        "a%cc%81",
        "admin.",
        "admin%20",
        "admin%00",
        "admin;x=1",
        "adm",
        "in",
        "..",
        ".",
        "%2e",
        "%2E%2e",
        ".%2e",
        "%252e",
        "..;",
        "%c0%ae",
        "%e2%80%a5",
        "\\",
        "%5c",
        "%2f",
        "%252f",
        "%ef%bc%8f",
        "%E2%81%84",
        ";",
        ";a=b",
        "%3b",
        "?",
        "#",
        "%23",
        "%3f",
        " ",
        "%09",
        "x",
        "public",
        "~",
        "%7e",
        "*",
    ]);
    prop::collection::vec(piece, 1..8).prop_map(|pieces| format!("/{}", pieces.concat()))
}
