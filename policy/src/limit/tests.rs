use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

mod keys;
mod reloads;

const SECOND: Duration = Duration::from_secs(1);

/// One field.
struct Field(&'static str, &'static [u8]);

impl Headers for Field {
    fn values(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        if name == self.0 {
            see(self.1);
        }
    }
}

const NO_FIELD: Field = Field("", b"");

fn caller(identity: &str) -> Subject<'_> {
    Subject {
        identity: Some(identity),
        namespace: Some("shop"),
        route: "/a/{id}",
        method: "GET",
        grpc_method: None,
        client_ip: None,
        headers: &NO_FIELD,
    }
}

fn definition(id: &str, key: &[&str], rate: &str, burst: u32) -> Definition {
    Definition {
        id: id.into(),
        alias: id.rsplit('/').next().unwrap().into(),
        key: key.iter().map(|key| key.parse().unwrap()).collect(),
        rate: rate.parse().unwrap(),
        burst: Some(burst),
        cost: vec![],
        ipv6_prefix: Definition::IPV6_PREFIX,
    }
}

fn limit(id: &str, key: &[&str], rate: &str, burst: u32) -> LimitSpec {
    LimitSpec::new(definition(id, key, rate, burst)).unwrap()
}

/// How many of `attempts` at one instant pass.
fn passed(
    limits: &Limits,
    specs: &[&LimitSpec],
    subject: &Subject<'_>,
    now: Duration,
    attempts: u32,
) -> u32 {
    (0..attempts)
        .map(|_| u32::from(limits.charge(specs, subject, now).is_ok()))
        .sum()
}

#[test]
fn a_burst_passes_then_the_rate() {
    let (limits, spec) = (Limits::default(), limit("l", &["identity"], "10/s", 5));
    assert_eq!(passed(&limits, &[&spec], &caller("a"), SECOND, 20), 5);
    assert_eq!(
        passed(
            &limits,
            &[&spec],
            &caller("a"),
            SECOND * 2 - SECOND / 20,
            20
        ),
        5,
        "refilled"
    );
    assert_eq!(
        passed(
            &limits,
            &[&spec],
            &caller("a"),
            SECOND * 2 + SECOND / 20,
            20
        ),
        1,
        "0.1 s later"
    );
}

#[test]
fn replies_carry_every_field() {
    let (limits, spec) = (
        Limits::default(),
        limit("ns/doc/per-caller", &["identity"], "2/s", 4),
    );
    let standing = limits
        .charge(&[&spec], &caller("a"), SECOND)
        .unwrap()
        .unwrap();
    assert_eq!(standing.policy_field(), "\"per-caller\";q=4;w=2");
    assert_eq!(standing.limit_field(), "\"per-caller\";r=3;t=1");
    assert_eq!(passed(&limits, &[&spec], &caller("a"), SECOND, 9), 3);
    let exceeded = limits.charge(&[&spec], &caller("a"), SECOND).unwrap_err();
    assert_eq!(
        (exceeded.id, exceeded.retry_after),
        ("ns/doc/per-caller", 1)
    );
    assert_eq!(exceeded.standing.limit_field(), "\"per-caller\";r=0;t=2");
}

#[test]
fn retry_after_is_when_the_request_passes_and_not_before() {
    let (limits, spec) = (Limits::default(), limit("l", &[], "6/m", 1));
    assert_eq!(passed(&limits, &[&spec], &caller("a"), SECOND, 1), 1);
    let exceeded = limits.charge(&[&spec], &caller("a"), SECOND).unwrap_err();
    assert_eq!(exceeded.retry_after, 10);
    assert_eq!(passed(&limits, &[&spec], &caller("a"), SECOND * 10, 1), 0);
    assert_eq!(passed(&limits, &[&spec], &caller("a"), SECOND * 11, 1), 1);
}

#[test]
fn the_tightest_limit_is_the_one_reported() {
    let own = limit("own", &["identity"], "10/s", 10);
    let total = limit("total", &[], "3/s", 3);
    let standing = Limits::default()
        .charge(&[&own, &total], &caller("a"), SECOND)
        .unwrap()
        .unwrap();
    assert_eq!((standing.alias, standing.remaining), ("total", 2));
    assert_eq!(
        Limits::default().charge(&[], &caller("a"), SECOND),
        Ok(None)
    );
}

#[test]
fn a_refusal_takes_nothing_from_any_limit() {
    let own = limit("own", &["identity"], "1/h", 5);
    let total = limit("total", &[], "1/h", 8);
    let limits = Limits::default();
    assert_eq!(
        passed(&limits, &[&own, &total], &caller("a"), SECOND, 100),
        5
    );
    // Had a's 95 refusals taken from the total, nothing would be left; had b's, b's own would be gone below.
    assert_eq!(
        passed(&limits, &[&own, &total], &caller("b"), SECOND, 100),
        3
    );
    assert_eq!(
        limits
            .charge(&[&own, &total], &caller("b"), SECOND)
            .unwrap_err()
            .id,
        "total"
    );
    assert_eq!(
        limits
            .charge(&[&own, &total], &caller("a"), SECOND)
            .unwrap_err()
            .id,
        "own"
    );
    assert_eq!(passed(&limits, &[&own], &caller("b"), SECOND, 100), 2);
}

#[test]
fn a_method_costs_what_its_limit_says() {
    let cost = vec![("POST".into(), 5), ("OPTIONS".into(), 0)];
    let spec = LimitSpec::new(Definition {
        cost,
        ..definition("l", &[], "1/h", 11)
    })
    .unwrap();
    let limits = Limits::default();
    let post = Subject {
        method: "POST",
        ..caller("a")
    };
    assert_eq!(passed(&limits, &[&spec], &post, SECOND, 9), 2);
    assert_eq!(passed(&limits, &[&spec], &caller("a"), SECOND, 9), 1);
    let options = Subject {
        method: "OPTIONS",
        ..caller("a")
    };
    assert_eq!(
        passed(&limits, &[&spec], &options, SECOND, 9),
        9,
        "free, even with nothing left"
    );
}

#[test]
fn a_clock_that_stands_or_goes_back_gives_nothing_and_takes_nothing() {
    let (limits, spec) = (Limits::default(), limit("l", &["identity"], "1/s", 5));
    let start = SECOND * 100;
    assert_eq!(passed(&limits, &[&spec], &caller("a"), start, 9), 5);
    assert_eq!(
        passed(&limits, &[&spec], &caller("a"), Duration::ZERO, 9),
        0
    );
    assert_eq!(
        passed(&limits, &[&spec], &caller("b"), Duration::ZERO, 9),
        5
    );
    assert_eq!(
        passed(&limits, &[&spec], &caller("a"), start + SECOND, 9),
        1,
        "no lock-out either"
    );
    assert_eq!(
        passed(&limits, &[&spec], &caller("a"), Duration::MAX, 9),
        5,
        "nor an overflow"
    );
}

/// A legitimate caller makes 10 requests per second of the 10/s it has, before, during and after a flood.
#[test]
fn a_flood_of_keys_costs_a_legitimate_caller_at_most_2_percent_and_nobody_is_unlimited() {
    let (limits, spec) = (Limits::new(256), limit("l", &["identity"], "10/s", 20));
    let legitimate = caller("spiffe://demo.test/ns/shop/sa/frontend");
    let (mut asked, mut refused) = (0, 0);
    // A flood key is in deficit for 100 ms, so that 600 are at a time: more than twice what the table has room for.
    for step in 0..20_000_u32 {
        let now = SECOND + Duration::from_millis(step.into());
        let flood = if (5_000..15_000).contains(&step) {
            6
        } else {
            0
        };
        for key in 0..flood {
            assert!(
                limits
                    .charge(&[&spec], &caller(&format!("{step}-{key}")), now)
                    .is_ok()
            );
        }
        if step % 100 == 50 {
            asked += 1;
            refused += u32::from(limits.charge(&[&spec], &legitimate, now).is_err());
        }
    }
    assert!(refused * 50 <= asked, "{refused} of {asked} refused");
    assert!(passed(&limits, &[&spec], &legitimate, SECOND * 22, 100) <= 20);
    assert!(passed(&limits, &[&spec], &caller("late"), SECOND * 22, 100) == 20);
}

#[test]
fn threads_together_get_no_more_than_the_quota() {
    let (limits, spec) = (Limits::default(), limit("l", &["identity"], "1/h", 1000));
    let total: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| passed(&limits, &[&spec], &caller("a"), SECOND, 1000)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(total, 1000);
}

#[test]
fn a_known_key_costs_no_allocation() {
    let own = limit("own", &["identity", "route", "clientIp"], "1000/s", 1000);
    let total = limit("total", &[], "1000/s", 1000);
    let limits = Limits::default();
    let subject = Subject {
        client_ip: Some([10, 0, 0, 1].into()),
        ..caller("a")
    };
    assert_eq!(passed(&limits, &[&own, &total], &subject, SECOND, 1), 1);
    let info = allocation_counter::measure(|| {
        assert_eq!(passed(&limits, &[&own, &total], &subject, SECOND, 100), 100);
    });
    assert_eq!(info.count_total, 0);
}

proptest! {
    /// The oracle counts tokens in whole nanoseconds x rate, without any rounding.
    #[test]
    fn never_more_than_an_exact_token_bucket_and_hardly_less(
        rate in 1u32..5000,
        burst in 1u32..50,
        steps in proptest::collection::vec((0u64..2_000_000, 0u8..3), 1..300),
    ) {
        let (limits, spec) = (Limits::default(), limit("l", &["identity"], &format!("{rate}/s"), burst));
        let full = u128::from(burst) * 1_000_000_000;
        let mut buckets = BTreeMap::new();
        let mut now = SECOND;
        for (step, key) in steps {
            let tick = Duration::from_nanos(step * 500);
            now += tick;
            buckets.values_mut().for_each(|tokens: &mut u128| *tokens = full.min(*tokens + tick.as_nanos() * u128::from(rate)));
            let tokens = buckets.entry(key).or_insert(full);
            let passes = limits.charge(&[&spec], &caller(&key.to_string()), now).is_ok();
            // Rounding the interval up may cost a few nanoseconds, and never gives any.
            let (at_least, room) = (1_000_000_000, *tokens);
            prop_assert!(!passes || room >= at_least, "passed with {room}");
            prop_assert!(passes || room < at_least + 1_000_000, "refused with {room}");
            if passes {
                *tokens -= at_least;
            }
        }
    }
}
