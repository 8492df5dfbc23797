//! `cargo bench -p policy --bench limit`: what charging a request costs.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use policy::Headers;
use policy::limit::{Definition, LimitSpec, Limits, Subject};

struct NoHeaders;

impl Headers for NoHeaders {
    fn values(&self, _: &str, _: &mut dyn FnMut(&[u8])) {}
}

fn subject(identity: &str) -> Subject<'_> {
    Subject {
        identity: Some(identity),
        namespace: Some("shop"),
        route: "/api/v1/orders/{id}",
        method: "GET",
        grpc_method: None,
        client_ip: None,
        headers: &NoHeaders,
    }
}

fn limit(id: &str, key: &[&str]) -> LimitSpec {
    let definition = Definition {
        id: format!("shop/frontend-reads-orders/{id}"),
        alias: id.to_owned(),
        key: key.iter().map(|key| key.parse().expect("a key")).collect(),
        rate: "1000000/s".parse().expect("a rate"),
        burst: Some(1_000_000),
        cost: vec![("POST".to_owned(), 5)],
        ipv6_prefix: Definition::IPV6_PREFIX,
    };
    LimitSpec::new(definition).expect("a limit")
}

fn charge(criterion: &mut Criterion) {
    let caller = "spiffe://prod.example/ns/shop/sa/frontend";
    let own = limit("per-caller", &["identity", "route"]);
    let total = limit("total", &[]);
    let start = Instant::now();
    let mut group = criterion.benchmark_group("charge");

    let limits = Limits::default();
    group.bench_function("one limit, known key", |bencher| {
        bencher.iter(|| {
            limits
                .charge(&[&own], black_box(&subject(caller)), start.elapsed())
                .is_ok()
        });
    });
    group.bench_function("own and shared limit, known keys", |bencher| {
        bencher.iter(|| {
            limits
                .charge(
                    &[&own, &total],
                    black_box(&subject(caller)),
                    start.elapsed(),
                )
                .is_ok()
        });
    });

    let busy = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while busy.load(Ordering::Relaxed) {
                let _ = limits.charge(&[&own, &total], &subject(caller), start.elapsed());
            }
        });
        group.bench_function(
            "own and shared limit, another thread at full speed",
            |bencher| {
                bencher.iter(|| {
                    limits
                        .charge(
                            &[&own, &total],
                            black_box(&subject(caller)),
                            start.elapsed(),
                        )
                        .is_ok()
                });
            },
        );
        busy.store(false, Ordering::Relaxed);
    });

    // Time stands still, so that all keys stay in deficit: the table is full and the sketch in use.
    let limits = Limits::default();
    let mut flood = 0_u64;
    group.bench_function("one limit, flood of new keys", |bencher| {
        bencher.iter(|| {
            flood += 1;
            let text = digits(flood);
            let identity = str::from_utf8(&text).expect("digits");
            limits
                .charge(&[&own], &subject(identity), Duration::from_secs(1))
                .is_ok()
        });
    });
    group.finish();
}

/// Digits without the allocation that `to_string` would add to what is measured.
fn digits(mut number: u64) -> [u8; 20] {
    let mut text = [b'0'; 20];
    for digit in text.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    text
}

criterion_group!(benches, charge);
criterion_main!(benches);
