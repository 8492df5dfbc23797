use super::*;

const MS: Duration = Duration::from_millis(1);

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
            endpoints: Endpoints::with(ways.len(), Random::seeded(7)),
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
                self.endpoints.judge(number, verdict, ends - since, ends);
                self.endpoints.end(number, true, since);
            }
            let number = self.endpoints.pick(&[], self.now).unwrap();
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
    service.run(60_000);
    let handed = service.run(10_000);
    assert!((4_500..=5_500).contains(&handed[0]), "{handed:?}");
    assert_eq!(service.endpoints.ejected(), 0);
}

#[test]
fn one_request_at_a_time_finds_out_how_an_ejected_endpoint_is() {
    let mut endpoints = Endpoints::with(2, Random::seeded(7));
    let mut now = Instant::now();
    let eject = |endpoints: &mut Endpoints, now| {
        for _ in 0..TOO_MANY {
            endpoints.all[0].in_hand += 1;
            endpoints.judge(0, Verdict::Failed, MS, now);
            endpoints.end(0, true, now);
        }
    };
    eject(&mut endpoints, now);
    for wait in [10, 20, 40, 80, 160, 300, 300] {
        let early = now + Duration::from_secs(wait) - MS;
        assert_eq!(endpoints.pick(&[], early), Some(1), "before {wait} s");
        now += Duration::from_secs(wait);
        assert_eq!(endpoints.pick(&[], now), Some(0), "after {wait} s");
        assert_eq!(endpoints.pick(&[], now), Some(1), "one is on its way");
        // The first gives up before it knows.
        endpoints.end(0, false, now);
        assert_eq!(endpoints.pick(&[], now), Some(0), "the next one asks");
        endpoints.judge(0, Verdict::Failed, MS, now);
        endpoints.end(0, true, now);
    }
}

#[test]
fn what_was_tried_is_not_picked_again() {
    let mut endpoints = Endpoints::with(3, Random::seeded(7));
    let now = Instant::now();
    let mut tried = Vec::new();
    while let Some(number) = endpoints.pick(&tried, now) {
        assert!(!tried.contains(&number));
        tried.push(number);
    }
    assert_eq!(tried.len(), 3);
}
