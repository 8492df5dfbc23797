//! `cargo bench -p policy --bench target`: what bringing a request target into canonical form costs.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use policy::target::{Profile, canonicalise, host};

fn targets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("target");
    for (name, target) in [
        ("plain", "/api/v1/orders/4711?fields=id,total&sort=-created"),
        ("canonical with escapes", "/files/a%20b/%C3%A9t%C3%A9.txt"),
        ("escapes to decode", "/files/%7Euser/%c3%a9.txt"),
        ("refused", "/files/..%2f..%2fetc/passwd"),
    ] {
        group.bench_function(name, |bencher| {
            bencher
                .iter(|| canonicalise(black_box(target.as_bytes()), &Profile::default()).is_ok());
        });
    }
    group.bench_function("host", |bencher| {
        bencher
            .iter(|| host::agree(Some(black_box(b"orders.shop.example:8080")), None, 80).is_ok());
    });
    group.finish();
}

criterion_group!(benches, targets);
criterion_main!(benches);
