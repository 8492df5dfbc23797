use super::*;

#[test]
fn a_namespace_speaks_for_itself_only() {
    let text = |kind: &str, namespace: &str, to: &str| {
        let body = match kind {
            "Grant" => format!(
                "from: [\"{FRONTEND}\"], {ALLOW}, validity: {{notAfter: never, because: x}}"
            ),
            "Guard" => "deny: [{path: /a}]".to_owned(),
            "Limit" => "limits: [{name: l, rate: 1/s}]".to_owned(),
            _ => "encodedSlash: opaque".to_owned(),
        };
        document(kind, "d", &body)
            .replace("namespace: shop", &format!("namespace: {namespace}"))
            .replace(ORDERS, to)
    };
    for kind in ["Grant", "Guard", "Limit", "HttpProfile"] {
        for to in [
            "spiffe://prod.example/ns/pay/sa/x",
            "spiffe://prod.example/ns/*/sa/x",
            "spiffe://prod.example/**",
        ] {
            let expected = format!(
                "spec.to[0]: a document of namespace `shop` may name only workloads in /ns/shop/..., found \"{to}\""
            );
            assert_eq!(problems(&text(kind, "shop", to)), [expected], "{kind}");
            assert_eq!(
                problems(&text(kind, "tipstaff-system", to)),
                Vec::<String>::new(),
                "{kind}"
            );
        }
        assert_eq!(
            problems(&text(kind, "shop", "spiffe://prod.example/ns/shop/**")),
            Vec::<String>::new()
        );
        let expected = "spec.to[0]: expected a SPIFFE ID: a callee always has one";
        assert_eq!(
            problems(&text(kind, "tipstaff-system", "unauthenticated")),
            [expected]
        );
    }
}

#[test]
fn kinds_versions_and_keys_of_later_or_never_are_refused() {
    let valid = guard("g", "deny: [{path: /a}]");
    for (text, expected) in [
        (
            valid.replace("Guard", "Quarantine"),
            "kind: documents of kind Quarantine are not supported yet",
        ),
        (
            valid.replace("Guard", "BreakGlass"),
            "kind: documents of kind BreakGlass are not supported yet",
        ),
        (
            valid.replace("Guard", "grant"),
            "kind: expected one of Grant, Guard, Limit, HttpProfile, Test, found \"grant\"",
        ),
        (
            valid.replace("v1alpha1", "v2"),
            "apiVersion: expected one of tipstaff.dev/v1alpha1, found \"tipstaff.dev/v2\"",
        ),
        (
            valid.replace("name: g,", ""),
            "metadata: expected the key `name`, which is missing",
        ),
        (
            valid.replace("name: g", "name: a/b"),
            "metadata.name: expected a name of letters, digits, '-', '_' or '.', found \"a/b\"",
        ),
        (
            valid.replace("spec:", "specs:"),
            ": expected the key `spec`, which is missing",
        ),
        (
            guard("g", "deny: [{}]"),
            "spec.deny[0]: expected at least one of methods, path, hosts, headers, grpc or tcp",
        ),
        (
            guard("g", "from: [x], deny: [{path: /a}]"),
            "spec.from: unknown key; known here: when, to, ports, deny, except, purpose, tests",
        ),
        (
            document("HttpProfile", "p", "upgrade: []"),
            "spec.upgrade: expected at least one item, found none",
        ),
        (
            document("HttpProfile", "p", "upgrade: websocket"),
            "spec.upgrade: expected a list, found \"websocket\"",
        ),
        (
            document("HttpProfile", "p", "upgrade: [\"web socket\"]"),
            "spec.upgrade[0]: expected the name of a protocol such as websocket, found \"web socket\"",
        ),
        (
            document("HttpProfile", "p", "upgrade: [\"a/b/c\"]"),
            "spec.upgrade[0]: expected the name of a protocol such as websocket, found \"a/b/c\"",
        ),
        (
            document("HttpProfile", "p", "upgrade: [websocket, H2C]"),
            "spec.upgrade[1]: an upgrade to `h2c` would carry requests that no rule is asked about",
        ),
        (
            document("HttpProfile", "p", "upgrade: [TLS/1.0]"),
            "spec.upgrade[0]: an upgrade to `tls` would carry requests that no rule is asked about",
        ),
        (
            document("HttpProfile", "p", "http10: allow"),
            "spec.http10: expected true or false, found \"allow\"",
        ),
        (
            document("HttpProfile", "p", "cors: allow"),
            "spec.cors: expected one of preflight, found \"allow\"",
        ),
        (
            guard("g", "deny: [{headers: [{name: Upgrade, present: true}]}]"),
            "spec.deny[0].headers[0].name: no rule sees `upgrade`: it belongs to the connection, not to the request",
        ),
        (
            document("HttpProfile", "p", "encodedSlash: decode"),
            "spec.encodedSlash: expected one of opaque, reject, found \"decode\"",
        ),
    ] {
        let found = problems(&text);
        assert!(
            found.iter().any(|problem| problem == expected),
            "{expected}\nnot in {found:#?}"
        );
    }
}

#[test]
fn documents_that_contradict_each_other_are_refused() {
    let twice = guard("g", "deny: [{path: /a}]").repeat(2);
    assert_eq!(
        problems(&twice),
        ["metadata: there is a Guard shop/g already, at p.yaml:4"]
    );
    let limit = "limits: [{name: l, rate: 1/s}]";
    let shared = grant("x", &format!("{ALLOW}, {limit}")) + &document("Limit", "x", limit);
    assert_eq!(
        problems(&shared),
        ["metadata: a Grant of this name has a limit shop/x/l too"]
    );
    let profiles = |first: &str, second: &str| {
        problems(&(document("HttpProfile", "a", first) + &document("HttpProfile", "b", second)))
    };
    let differ = [
        "metadata: HttpProfiles shop/a and shop/b differ and reach the same callee and port; one document says it all",
    ];
    for (first, second) in [
        ("encodedSlash: opaque", "pathParams: literal"),
        ("upgrade: [websocket]", "upgrade: [websocket, tcp]"),
        ("upgrade: [websocket]", "ports: [80]"),
        ("http10: true", "http10: false"),
        ("cors: preflight", "http10: true"),
    ] {
        assert_eq!(profiles(first, second), differ, "{first} and {second}");
    }
    assert_eq!(
        profiles("upgrade: [websocket, tcp]", "upgrade: [TCP, WebSocket]"),
        Vec::<String>::new()
    );
    assert_eq!(
        profiles("ports: [1], encodedSlash: opaque", "ports: [2]"),
        Vec::<String>::new()
    );
}

#[test]
fn all_problems_of_all_files_are_told_in_one_run() {
    let files = [
        Source {
            name: "b.yaml".to_owned(),
            text: "kind: [".to_owned(),
        },
        Source {
            name: "a.yaml".to_owned(),
            text: grant("g", "allow: [{methods: [get], path: a}], nope: 1"),
        },
    ];
    let found = policy::compile(&files, &Options::default()).unwrap_err();
    let keys: Vec<(&str, &str)> = found
        .iter()
        .map(|p| (p.file.as_str(), p.key.as_str()))
        .collect();
    assert_eq!(
        keys,
        [
            ("a.yaml", "spec.allow[0].methods[0]"),
            ("a.yaml", "spec.allow[0].path"),
            ("a.yaml", "spec.nope"),
            ("b.yaml", "kind[0]"),
        ]
    );
    assert!(
        found[0].to_string().starts_with("a.yaml:5:"),
        "{}",
        found[0]
    );
}

/// What a document says wrongly is shown to a person, and a terminal obeys controls.
#[test]
fn no_refusal_repeats_a_control_character() {
    let with_limit = |limit: &str| {
        grant(
            "g",
            &format!("{ALLOW}, limits: [{{name: a, rate: 1/s, {limit}}}]"),
        )
    };
    for text in [
        "\"a\\e[31m\": 1\n".to_owned(),
        "\"a\\n\": {\"b\\e\": [1]}\n".to_owned(),
        grant("\"g\\e\"", ALLOW),
        grant("g", "allow: [{methods: [\"G\\eT\"], path: \"/\\e\"}]"),
        grant(
            "g",
            &format!("{ALLOW}, limits: [{{name: \"a\\e\", rate: 1/s}}]"),
        ),
        grant(
            "g",
            &format!("{ALLOW}, limits: [{{name: a, rate: \"1\\e/s\"}}]"),
        ),
        with_limit("key: [\"identi\\ety\"]"),
        with_limit("cost: {\"PO\\eST\": 5}, burst: 1"),
    ] {
        let found = policy::compile(&[source(&text)], &Options::default()).unwrap_err();
        assert!(!found.is_empty());
        for problem in found {
            assert!(
                !problem.to_string().contains(char::is_control),
                "{problem:?}"
            );
        }
    }
}
