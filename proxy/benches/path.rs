//! `cargo bench -p proxy --bench path`: what a request costs between its head and its forwarding, with ten thousand grants:
//! normalise, decide, limit, record, each by itself and all together, and how often each allocates.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

#[expect(dead_code, reason = "the tests mint bad certificates, too")]
#[path = "../tests/it/harness/certs.rs"]
mod certs;

use std::any::Any;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::SystemTime;

use certs::{Authority, Life};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request};
use policy::{Options, Source};
use proxy::admin::PolicyStatus;
use proxy::bench::{Connection, Normal, Permit};
use proxy::config::{self, AccessLog, Admin, Endpoint, Inbound, Sizes, Timeouts};
use proxy::drain::Readiness;
use proxy::{Config, IdentityFeed, IdentityState, PolicyFeed, Proxy};
use tokio::sync::{mpsc, watch};

const GRANTS: usize = 10_000;
const FRONTEND: &str = "spiffe://prod.example/ns/shop/sa/frontend";
const ORDERS: &str = "spiffe://prod.example/ns/shop/sa/orders";

fn path(criterion: &mut Criterion) {
    let (connection, _senders) = connection();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let heads = heads(protocol);
        allocations(&connection, protocol, &heads[0]);
        steps(criterion, &connection, protocol, &heads);
    }
}

/// How a request arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    /// Between sidecars: the host is in the target, which has a scheme.
    Http2,
}

fn steps(criterion: &mut Criterion, connection: &Connection, protocol: Protocol, heads: &[Parts]) {
    let rules = connection.rules();
    let now = SystemTime::now();
    // What a later step finds when the earlier ones are done, for each grant: each has a limit of its own, and none of
    // them may be reached.
    let normal: Vec<(Normal, Parts)> = heads
        .iter()
        .map(|head| {
            let mut head = head.clone();
            (connection.normalize(&rules, &mut head), head)
        })
        .collect();
    let permits: Vec<(Permit<'_>, &Parts)> = normal
        .iter()
        .map(|(normal, head)| (connection.decide(&rules, head, normal, now), head))
        .collect();

    let mut group = criterion.benchmark_group(format!("{protocol:?}, {GRANTS} grants"));
    // What a request brings was just read and is in the cache, what the policy has for it need not be: so few requests are
    // made at a time, right before they are asked about.
    let size = BatchSize::NumIterations(16);
    let mut turn = heads.iter().cycle();
    let mut head = || fresh(turn.next().unwrap());
    group.bench_function("normalise", |bencher| {
        bencher.iter_batched_ref(&mut head, |head| connection.normalize(&rules, head), size);
    });
    let mut turn = normal.iter().cycle();
    let mut request = || turn.next().unwrap().clone();
    group.bench_function("decide", |bencher| {
        let decide = |(normal, head): &mut (Normal, Parts)| {
            black_box(connection.decide(&rules, head, normal, now));
        };
        bencher.iter_batched_ref(&mut request, decide, size);
    });
    let mut turn = permits.iter().cycle();
    let mut request = || {
        let (permit, head) = turn.next().unwrap();
        (permit, (*head).clone())
    };
    group.bench_function("limit", |bencher| {
        let limit = |(permit, head): &mut (&Permit<'_>, Parts)| connection.limit(permit, head);
        bencher.iter_batched_ref(&mut request, limit, size);
    });
    group.bench_function("record", |bencher| {
        let record = |(permit, head): &mut (&Permit<'_>, Parts)| {
            connection.record(head, &rules, permit);
        };
        bencher.iter_batched_ref(&mut request, record, size);
    });
    group.bench_function("together, each time another grant", |bencher| {
        bencher.iter_batched_ref(&mut head, |head| connection.handle(head), size);
    });
    group.bench_function("together, the same grant again", |bencher| {
        bencher.iter_batched_ref(|| fresh(&heads[0]), |head| connection.handle(head), size);
    });
    group.finish();
}

/// Prints how often each step allocates, and fails if one does that must not: a request that is allowed and arrives in
/// canonical form costs no allocation.
fn allocations(connection: &Connection, protocol: Protocol, head: &Parts) {
    let count = |step: &mut dyn FnMut()| allocation_counter::measure(step).count_total;
    connection.handle(&mut head.clone()); // The limit's cell is made by its first request.
    let (rules, now) = (connection.rules(), SystemTime::now());
    let mut canonical = fresh(head);
    let normalise = count(&mut || {
        connection.normalize(&rules, &mut canonical);
    });
    let normal = connection.normalize(&rules, &mut canonical);
    let permit = connection.decide(&rules, &canonical, &normal, now);
    let decide = count(&mut || {
        black_box(connection.decide(&rules, &canonical, &normal, now));
    });
    let limit = count(&mut || connection.limit(&permit, &canonical));
    let record = count(&mut || connection.record(&canonical, &rules, &permit));
    let mut head = fresh(head);
    let together = count(&mut || connection.handle(&mut head));
    println!(
        "{protocol:?}: allocations: normalise {normalise}, decide {decide}, limit {limit}, record {record}, together {together}"
    );
    assert_eq!((decide, limit, record), (0, 0, 0), "{protocol:?}");
    assert_eq!((normalise, together), (0, 0), "{protocol:?}");
}

/// A head as it arrives: with room for one field more, which a clone has not and a reader, that doubles its room, mostly
/// leaves.
fn fresh(head: &Parts) -> Parts {
    let mut head = head.clone();
    let one_more = HeaderName::from_static("x-one-more");
    head.headers
        .insert(one_more.clone(), HeaderValue::from_static(""));
    head.headers.remove(one_more);
    head
}

/// A request for each grant, in an order that no cache line foresees.
fn heads(protocol: Protocol) -> Vec<Parts> {
    (0..GRANTS)
        .map(|index| {
            let path = format!("/service-{}/orders/4711", index * 7919 % GRANTS);
            let request = match protocol {
                Protocol::Http1 => Request::get(path).header("host", "orders"),
                Protocol::Http2 => {
                    Request::get(format!("https://orders{path}")).version(http::Version::HTTP_2)
                }
            };
            let request = request
                .header("user-agent", "frontend/1.7")
                .header("accept", "application/json")
                .header("accept-encoding", "gzip")
                .header("x-request-id", "0190f3c2-7a54-7c7b-9d0e-3f5d1c2b4a69")
                .header(
                    "traceparent",
                    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                );
            request.body(()).unwrap().into_parts().0
        })
        .collect()
}

/// The front end, connected to the orders' sidecar. The other value keeps what feeds the sidecar.
fn connection() -> (Connection, Box<dyn Any>) {
    let authority = Authority::new();
    let (caller, keep_caller) = identity(&authority, FRONTEND);
    let (own, keep_own) = identity(&authority, ORDERS);
    let source = Source {
        name: "grants.yaml".to_owned(),
        text: (0..GRANTS).map(grant).collect(),
    };
    let policy = policy::compile(&[source], &Options::default())
        .unwrap_or_else(|problems| panic!("{}", problems[0]));
    let (keep_policy, policy) = watch::channel(Arc::new(policy));
    let (keep_status, status) = watch::channel(PolicyStatus {
        generation: String::new(),
        loaded_at: SystemTime::now(),
        last_error: None,
    });
    let feed = PolicyFeed { policy, status };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let connection = runtime.block_on(async {
        let bound = Proxy::build(config(), own, feed, Readiness::new()).unwrap();
        Connection::new(bound, &caller).await
    });
    (
        connection,
        Box::new((keep_caller, keep_own, keep_policy, keep_status)),
    )
}

/// A grant with a limit for each caller, as in a policy that is used.
fn grant(index: usize) -> String {
    format!(
        "---\napiVersion: tipstaff.dev/v1alpha1\nkind: Grant\nmetadata: {{name: g{index}, namespace: shop}}\n\
         spec: {{to: [\"{ORDERS}\"], purpose: {{id: p, owner: o}}, from: [\"{FRONTEND}\"], \
         allow: [{{methods: [GET], path: \"/service-{index}/orders/{{id}}\"}}], validity: {{notAfter: 2100-01-01T00:00:00Z}}, \
         limits: [{{name: per-caller, key: [identity], rate: 1000000/s, burst: 1000000}}]}}\n"
    )
}

fn identity(authority: &Authority, id: &str) -> (IdentityFeed, Box<dyn Any>) {
    let (keep_svid, svid) = watch::channel(Some(Arc::new(authority.svid(id, Life::Hour))));
    let (keep_bundle, bundle) = watch::channel(Arc::new(authority.bundle()));
    let (keep_state, state) = watch::channel(IdentityState::default());
    let (renew, renewals) = mpsc::channel(1);
    let feed = IdentityFeed {
        svid,
        bundle,
        revocations: watch::channel(Arc::default()).1,
        state,
        renew,
    };
    (
        feed,
        Box::new((keep_svid, keep_bundle, keep_state, renewals)),
    )
}

fn config() -> Config {
    let any = "127.0.0.1:0".parse().unwrap();
    let app = Endpoint {
        host: "127.0.0.1".to_owned(),
        port: 8080,
    };
    Config {
        inbound: vec![Inbound {
            listen: any,
            app: app.into(),
            protocol: config::Protocol::Http,
            mtls: config::Mtls::Strict,
            tcp_ports: Vec::new(),
        }],
        outbound: None,
        timeouts: Timeouts::default(),
        sizes: Sizes::default(),
        admin: Admin {
            listen: any,
            socket: None,
        },
        access_log: AccessLog::Off,
        workers: NonZeroUsize::MIN,
    }
}

criterion_group!(benches, path);
criterion_main!(benches);
