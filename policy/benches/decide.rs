//! `cargo bench -p policy --bench decide`: what deciding a request costs with ten thousand grants.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use policy::testing::Fields;
use policy::{Attributes, Caller, Decision, Options, Source, View};

const GRANTS: usize = 10_000;
const DECISIONS: usize = 1_000_000;
const FRONTEND: &str = "spiffe://prod.example/ns/shop/sa/frontend";
const ORDERS: &str = "spiffe://prod.example/ns/shop/sa/orders";

/// A document with a rule for each grant, and the guard and the total that most policies have beside them.
fn view(grant: impl Fn(usize) -> (String, String)) -> Arc<View> {
    let document = |kind: &str, name: &str, spec: &str| {
        format!(
            "---\napiVersion: tipstaff.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{to: [\"{ORDERS}\"], purpose: {{id: p, owner: o}}, {spec}}}\n"
        )
    };
    let mut text = document("Guard", "no-debug", "deny: [{path: \"/debug/**\"}]");
    text += &document("Limit", "total", "limits: [{name: total, rate: 10/s}]");
    for index in 0..GRANTS {
        let (from, path) = grant(index);
        let spec = format!(
            "from: [\"{from}\"], allow: [{{methods: [GET], path: \"{path}\"}}], validity: {{notAfter: 2100-01-01T00:00:00Z}}"
        );
        text += &document("Grant", &format!("g{index}"), &spec);
    }
    let name = "grants.yaml".to_owned();
    let policy = policy::compile(&[Source { name, text }], &Options::default())
        .unwrap_or_else(|problems| panic!("{}", problems[0]));
    let id = |text: &str| text.parse().expect("a SPIFFE ID");
    policy.view(Caller::Identity(&id(FRONTEND)), &id(ORDERS), 8080)
}

fn decide(criterion: &mut Criterion) {
    let one_caller = view(|index| {
        (
            FRONTEND.to_owned(),
            format!("/service-{index}/orders/{{id}}"),
        )
    });
    let many_callers = view(|index| match index {
        7777 => (FRONTEND.to_owned(), "/api/v1/orders/{id}".to_owned()),
        _ => (
            format!("spiffe://prod.example/ns/shop/sa/c{index}"),
            "/api/v1/orders/{id}".to_owned(),
        ),
    });
    let mut group = criterion.benchmark_group("decide");
    for (name, view, paths) in [
        ("10 000 grants for one caller", one_caller, 7919),
        ("10 000 grants for as many callers", many_callers, 0),
    ] {
        let paths: Vec<String> = (0..GRANTS)
            .map(|index| match paths {
                0 => format!("/api/v1/orders/{index}"),
                // In an order that no cache line foresees.
                step => format!("/service-{}/orders/4711", index * step % GRANTS),
            })
            .collect();
        percentiles(name, &view, &paths);
        let mut turn = paths.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| is_allowed(&view, turn.next().map_or("", |path| path)));
        });
    }
    group.finish();
}

fn is_allowed(view: &View, path: &str) -> bool {
    let request = Attributes {
        method: "GET",
        path: black_box(path),
        host: "orders",
        headers: &Fields(&[]),
    };
    matches!(view.decide(&request, SystemTime::now()), Decision::Allow(_))
}

/// Criterion tells means; the target is about the slowest of a hundred.
fn percentiles(name: &str, view: &View, paths: &[String]) {
    let mut samples: Vec<u128> = Vec::with_capacity(DECISIONS);
    for path in paths.iter().cycle().take(DECISIONS) {
        let start = Instant::now();
        assert!(is_allowed(view, path), "{path}");
        samples.push(start.elapsed().as_nanos());
    }
    samples.sort_unstable();
    let at = |share: usize| samples[DECISIONS / 1000 * share];
    println!(
        "{name}: p50 {} ns, p99 {} ns, p99.9 {} ns, reading the clock included",
        at(500),
        at(990),
        at(999)
    );
}

criterion_group!(benches, decide);
criterion_main!(benches);
