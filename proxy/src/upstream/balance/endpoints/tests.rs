mod order;

use super::*;
use crate::config::{self, Breaker, Destination};
use crate::metrics::Metrics;
use crate::upstream::http2::Remote;

/// Of the defaults.
const FAILURES: u32 = 5;
const MS: Duration = Duration::from_millis(1);

/// Has endpoints on these ports.
fn at(port: u16) -> config::Endpoint {
    let host = "127.0.0.1".to_owned();
    config::Endpoint { host, port }
}

/// Has endpoints on these ports.
fn on(endpoints: &mut Endpoints, ports: impl IntoIterator<Item = u16>, now: Instant) {
    let members = ports.into_iter().map(|port| Member::at(at(port)));
    set(endpoints, members, now);
}

fn set(endpoints: &mut Endpoints, members: impl Iterator<Item = Member>, now: Instant) {
    let with_lanes = |member: Member| {
        let to = Destination::from(member.address.clone());
        let lanes = Lanes::new(to, Remote::App, Metrics::new());
        (member, lanes)
    };
    endpoints.set(members.map(with_lanes).collect(), now);
}

fn endpoints(count: u16) -> Endpoints {
    with(Resilience::default(), count)
}

fn with(rules: Resilience, count: u16) -> Endpoints {
    let mut endpoints = Endpoints::with(rules, Random::seeded(7));
    on(&mut endpoints, 0..count, Instant::now());
    endpoints
}

impl Endpoints {
    /// The place of the one that is handed a request.
    fn hand(&mut self, tried: &[Number], now: Instant) -> Option<usize> {
        let picked = self.pick(tried, None, now).ok()?;
        self.all.iter().position(|all| all.number == picked.number)
    }
}

/// A service under load: every millisecond a request, answered by each endpoint in its own way.
struct Service {
    endpoints: Endpoints,
    now: Instant,
    /// How each takes a request: what becomes of it, and after how many milliseconds.
    ways: Vec<fn(u32) -> (Verdict, u32)>,
    in_hand: Vec<(Instant, usize, Verdict, Instant)>,
    handed: Vec<u32>,
    most_ejected: usize,
}

impl Service {
    fn new(ways: Vec<fn(u32) -> (Verdict, u32)>) -> Self {
        Self {
            endpoints: endpoints(ways.len() as u16),
            now: Instant::now(),
            handed: vec![0; ways.len()],
            ways,
            in_hand: Vec::new(),
            most_ejected: 0,
        }
    }

    fn run(&mut self, requests: u32) -> Vec<u32> {
        self.handed.fill(0);
        for request in 0..requests {
            self.now += MS;
            let (over, left) = self.in_hand.iter().partition(|turn| turn.0 <= self.now);
            self.in_hand = left;
            let over: Vec<(Instant, usize, Verdict, Instant)> = over;
            for (ends, number, verdict, since) in over {
                let place = self.endpoints.all[number].number;
                self.endpoints.judge(place, verdict, ends - since, ends);
                self.endpoints.end(place, true, None);
            }
            let number = self.endpoints.hand(&[], self.now).unwrap();
            self.handed[number] += 1;
            let (verdict, after) = self.ways[number](request);
            self.in_hand
                .push((self.now + MS * after, number, verdict, self.now));
            self.most_ejected = self.most_ejected.max(self.endpoints.ejected());
        }
        self.handed.clone()
    }
}

fn well(request: u32) -> (Verdict, u32) {
    (Verdict::Answered, 5 + request * 7 % 11)
}

fn slow(request: u32) -> (Verdict, u32) {
    (Verdict::Answered, 100 + request * 7 % 11)
}

fn dead(_: u32) -> (Verdict, u32) {
    (Verdict::Failed, 0)
}

#[test]
fn equal_endpoints_share_within_a_tenth() {
    for count in [2, 3, 5] {
        let handed = Service::new(vec![well; count]).run(30_000);
        let even = 30_000.0 / count as f64;
        for share in &handed {
            let off = (f64::from(*share) - even).abs() / even;
            assert!(off <= 0.1, "{handed:?}");
        }
    }
}

#[test]
fn a_slow_endpoint_gets_less() {
    let handed = Service::new(vec![well, slow, well]).run(10_000);
    assert!(handed[1] < 1_500, "{handed:?}");
}

#[test]
fn a_dead_endpoint_gets_next_to_nothing() {
    for ways in [vec![well, dead], vec![dead, well, well]] {
        let dead_one = ways.iter().position(|way| way(0).0 == Verdict::Failed);
        let mut service = Service::new(ways);
        // Ten minutes: what it takes to eject it, and a look at it now and then.
        let handed = service.run(600_000);
        assert!(handed[dead_one.unwrap()] <= 20, "{handed:?}");
    }
}

#[test]
fn half_of_the_endpoints_are_always_in_use() {
    for count in 2..=7 {
        let mut service = Service::new(vec![dead; count]);
        service.run(100_000);
        assert_eq!(service.most_ejected, count / 2, "of {count}");
    }
}

#[test]
fn an_endpoint_that_is_well_again_gets_its_share_again() {
    let mut service = Service::new(vec![dead, well]);
    service.run(1_000);
    service.ways[0] = well;
    service.run(80_000);
    let handed = service.run(10_000);
    assert!((4_500..=5_500).contains(&handed[0]), "{handed:?}");
    assert_eq!(service.endpoints.ejected(), 0);
}

#[test]
fn one_request_at_a_time_finds_out_how_an_ejected_endpoint_is() {
    let mut endpoints = endpoints(2);
    let first = endpoints.all[0].number;
    let mut now = Instant::now();
    eject(&mut endpoints, 0, now);
    for wait in [10, 20, 40, 80, 160, 300, 300] {
        let early = now + Duration::from_secs(wait) - MS;
        assert_eq!(endpoints.hand(&[], early), Some(1), "before {wait} s");
        now += Duration::from_secs(wait);
        assert_eq!(endpoints.hand(&[], now), Some(0), "after {wait} s");
        assert_eq!(endpoints.hand(&[], now), Some(1), "one is on its way");
        // The first gives up before it knows.
        endpoints.end(first, false, Some(now));
        assert_eq!(endpoints.hand(&[], now), Some(0), "the next one asks");
        endpoints.judge(first, Verdict::Failed, MS, now);
        endpoints.end(first, true, Some(now));
    }
}

/// Has the endpoint at `place` fail until it is out.
fn eject(endpoints: &mut Endpoints, place: usize, now: Instant) {
    let number = endpoints.all[place].number;
    for _ in 0..FAILURES {
        endpoints.hand_out(place, &[]);
        endpoints.judge(number, Verdict::Failed, MS, now);
        endpoints.end(number, true, None);
    }
}

#[test]
fn what_was_tried_is_not_picked_again() {
    let mut endpoints = endpoints(3);
    let now = Instant::now();
    let mut tried = Vec::new();
    while let Ok(picked) = endpoints.pick(&tried, None, now) {
        assert!(!tried.contains(&picked.number));
        tried.push(picked.number);
    }
    assert_eq!(tried.len(), 3);
    assert_eq!(
        endpoints.pick(&tried, None, now).unwrap_err(),
        Refusal::Tried
    );
}

#[test]
fn what_is_known_of_endpoints_that_stay_is_kept() {
    let mut endpoints = endpoints(4);
    let now = Instant::now();
    eject(&mut endpoints, 1, now);
    let handed = endpoints.all[2].number;
    endpoints.all[2].in_hand = 1;
    on(&mut endpoints, [9, 2, 1, 8], now);
    assert_eq!(endpoints.all[1].number, handed);
    assert_eq!(endpoints.all[1].in_hand, 1);
    assert!(endpoints.all[2].is_ejected());
    assert_eq!(endpoints.ejected(), 1);
}

#[test]
fn requests_end_at_endpoints_that_have_left_and_count_for_none_that_came_instead() {
    let mut endpoints = endpoints(2);
    let now = Instant::now();
    let left = endpoints.pick(&[], None, now).unwrap().number;
    on(&mut endpoints, [7, 8], now);
    // As the endpoints that left do, these come back as new ones.
    on(&mut endpoints, [0, 1], now);
    for _ in 0..FAILURES {
        endpoints.judge(left, Verdict::Failed, MS, now);
    }
    endpoints.end(left, true, None);
    assert_eq!(endpoints.ejected(), 0);
    assert!(endpoints.all.iter().all(|all| all.in_hand == 0));
}

#[test]
fn half_of_the_endpoints_are_in_use_when_those_that_were_have_left() {
    let mut endpoints = endpoints(4);
    let now = Instant::now();
    eject(&mut endpoints, 0, now);
    eject(&mut endpoints, 1, now);
    on(&mut endpoints, [0, 1], now);
    assert_eq!(endpoints.ejected(), 1);
    on(&mut endpoints, [0], now);
    assert_eq!(endpoints.ejected(), 0);
}

#[test]
fn the_share_of_an_endpoint_that_is_new_or_well_again_grows_with_time() {
    let mut added = Service::new(vec![well; 3]);
    added.run(1_000);
    on(&mut added.endpoints, 0..4, added.now);
    added.ways.push(well);
    added.handed.push(0);

    let mut healed = Service::new(vec![well; 4]);
    healed.run(1_000);
    eject(&mut healed.endpoints, 3, healed.now);
    while healed.endpoints.ejected() > 0 {
        healed.run(1);
    }

    for mut service in [added, healed] {
        // A quarter is its whole share.
        let shares: Vec<u32> = (0..11).map(|_| service.run(1_000)[3]).collect();
        assert!(shares[0] <= 60, "{shares:?}");
        assert!((100..=210).contains(&shares[5]), "{shares:?}");
        assert!((220..=280).contains(&shares[10]), "{shares:?}");
    }
}

#[test]
fn an_endpoint_gets_no_more_requests_than_may_wait_there() {
    for count in 1..=3 {
        let rules = Resilience {
            max_pending: 10,
            ..Resilience::default()
        };
        let (mut endpoints, now) = (with(rules, count), Instant::now());
        let most = usize::from(count) * 10;
        let handed: Vec<_> = (0..most)
            .map(|_| endpoints.pick(&[], None, now).unwrap().number)
            .collect();
        assert_eq!(endpoints.pick(&[], None, now).unwrap_err(), Refusal::Full);
        assert_eq!(endpoints.pick_only(&[]).unwrap_err(), Refusal::Full);
        // One that is answered may go on for as long as it likes; one that nobody waits for any more is as good.
        endpoints.judge(handed[0], Verdict::Answered, MS, now);
        assert_eq!(endpoints.pick(&[], None, now).unwrap().number, handed[0]);
        endpoints.end(handed[1], false, None);
        assert_eq!(endpoints.pick(&[], None, now).unwrap().number, handed[1]);
        assert_eq!(endpoints.pick(&[], None, now).unwrap_err(), Refusal::Full);
        for number in &handed[2..] {
            endpoints.end(*number, false, None);
        }
        assert!(endpoints.all.iter().all(|all| all.pending <= 2));
    }
}

#[test]
fn an_endpoint_that_is_alone_rests_for_shorter_and_is_not_asked_meanwhile() {
    let (mut endpoints, mut now) = (endpoints(1), Instant::now());
    let only = endpoints.all[0].number;
    eject(&mut endpoints, 0, now);
    for wait in [1, 2, 4, 8, 10, 10] {
        let early = now + Duration::from_secs(wait) - MS;
        assert_eq!(endpoints.pick(&[], None, early).unwrap_err(), Refusal::Open);
        now += Duration::from_secs(wait);
        assert!(endpoints.pick(&[], None, now).unwrap().is_probe);
        assert_eq!(endpoints.pick(&[], None, now).unwrap_err(), Refusal::Open);
        endpoints.judge(only, Verdict::Failed, MS, now);
        endpoints.end(only, true, Some(now));
    }
    // What was found anew and is the same changes nothing.
    on(&mut endpoints, [0], now);
    assert_eq!(endpoints.pick(&[], None, now).unwrap_err(), Refusal::Open);
    now += Duration::from_secs(10);
    assert!(endpoints.pick(&[], None, now).unwrap().is_probe);
    endpoints.judge(only, Verdict::Answered, MS, now);
    assert!(endpoints.is_plain());
    assert!(!endpoints.pick_only(&[]).unwrap().is_probe);
    assert_eq!(endpoints.ejected(), 0);
}

#[test]
fn a_request_that_finds_out_nothing_does_not_keep_others_from_it() {
    let (mut endpoints, now) = (endpoints(1), Instant::now());
    eject(&mut endpoints, 0, now);
    let now = now + Duration::from_secs(1);
    assert!(endpoints.pick(&[], None, now).unwrap().is_probe);
    let soon = now + PROBE_HOLDS;
    assert_eq!(
        endpoints.pick(&[], None, soon - MS).unwrap_err(),
        Refusal::Open
    );
    assert!(endpoints.pick(&[], None, soon).unwrap().is_probe);
}

#[test]
fn one_success_between_failures_keeps_an_endpoint_in_use() {
    let (mut endpoints, now) = (endpoints(1), Instant::now());
    for _ in 0..10 {
        for _ in 1..FAILURES {
            let only = endpoints.pick_only(&[]).unwrap().number;
            endpoints.judge(only, Verdict::Failed, MS, now);
        }
        let only = endpoints.pick_only(&[]).unwrap().number;
        endpoints.answered_only(only);
    }
    assert!(endpoints.is_plain());
}

#[test]
fn breakers_open_when_they_are_told_to() {
    for (breaker, failures) in [
        (None, None),
        (
            Some(Breaker {
                failures: 1,
                ..Breaker::default()
            }),
            Some(1),
        ),
        (
            Some(Breaker {
                failures: 9,
                ..Breaker::default()
            }),
            Some(9),
        ),
    ] {
        for count in 1..=2 {
            let rules = Resilience {
                breaker,
                ..Resilience::default()
            };
            let (mut endpoints, now) = (with(rules, count), Instant::now());
            let first = endpoints.all[0].number;
            let opened = (1..=100).find(|_| {
                endpoints.hand_out(0, &[]);
                endpoints.judge(first, Verdict::Failed, MS, now);
                endpoints.ejected() > 0
            });
            assert_eq!(opened, failures, "{breaker:?} of {count}");
        }
    }
}
