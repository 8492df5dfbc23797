use super::*;
use crate::authority::slots::Slots;
use std::time::UNIX_EPOCH;

const HOUR: Duration = Duration::from_secs(3600);

fn unix_ms(time: SystemTime) -> i64 {
    i64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn schedule(received: (Instant, SystemTime), server: SystemTime) -> Schedule {
    let renew_at = server + Duration::from_secs(30 * 60);
    Schedule::new(
        unix_ms(server),
        unix_ms(renew_at),
        unix_ms(server + HOUR),
        received,
    )
}

#[test]
fn a_wrong_local_clock_shifts_nothing() {
    for server in [SystemTime::now() - 24 * HOUR, SystemTime::now() + 24 * HOUR] {
        let received = now();
        let schedule = schedule(received, server);
        assert!(!schedule.is_due(received));
        assert_eq!(schedule.wait(received), HOUR / 2);
    }
}

#[test]
fn either_clock_makes_it_due() {
    let received = now();
    let schedule = schedule(received, received.1);
    let later = HOUR / 2;
    assert!(
        schedule.is_due((received.0 + later, received.1)),
        "the clock was set back"
    );
    assert!(
        schedule.is_due((received.0, received.1 + later)),
        "the machine slept"
    );
    assert!(!schedule.is_due((received.0 + later / 2, received.1 + later / 2)));
}

#[test]
fn absurd_times_neither_spin_nor_overflow() {
    let received = now();
    for (server_time, renew_at, not_after) in [
        (0, 0, 0),
        (i64::MAX, i64::MIN, i64::MIN),
        (i64::MIN, i64::MAX, i64::MAX),
    ] {
        let schedule = Schedule::new(server_time, renew_at, not_after, received);
        assert!(schedule.wait(received) >= SOONEST);
        assert!(schedule.wait(received) <= 7 * 24 * HOUR);
    }
}

#[test]
fn waits_grow_to_a_cap_that_fits_the_life() {
    for (life, valid, cap) in [
        (None, false, 5.0),
        (Some(HOUR), true, 30.0),
        (Some(HOUR), false, 5.0),
        (Some(Duration::from_secs(5)), true, 0.5),
        (Some(Duration::from_secs(60)), true, 6.0),
    ] {
        let mut backoff = Backoff::default();
        let waits: Vec<f64> = (0..40)
            .map(|_| backoff.next(life, valid).as_secs_f64())
            .collect();
        assert!(waits[0] <= 0.25, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= cap), "{waits:?}");
        assert!(waits[39] >= cap / 2.0, "{waits:?}");
    }
}

#[test]
fn who_is_told_when_to_come_back_comes_no_sooner_and_not_with_everybody_else() {
    let pause = Duration::from_millis(250);
    for told in [0, 1, 30] {
        let told = Duration::from_secs(told);
        let waits: Vec<_> = (0..200).map(|_| not_before(told, pause)).collect();
        let most = told + told.max(pause) / 2;
        assert!(
            waits.iter().all(|wait| (told..=most).contains(wait)),
            "{waits:?}"
        );
        assert!(waits.iter().any(|wait| *wait != waits[0]), "{waits:?}");
    }
    assert!(not_before(Duration::MAX, pause) <= LONGEST_TOLD * 2);
}

/// A workload that renews whenever its schedule says so, on a simulated clock that both sides share.
struct Workload {
    number: u32,
    renewals: u32,
    schedule: Schedule,
}

impl Workload {
    /// Its `renewals`-th certificate, which the CA issues `since` the start.
    fn receive(
        number: u32,
        renewals: u32,
        (start, since): ((Instant, SystemTime), Duration),
        ca: &Slots,
    ) -> Self {
        let received = (start.0 + since, start.1 + since);
        let not_after = received.1 + 24 * HOUR;
        let serial = crate::ledger::fingerprint(format!("{number} {renewals}").as_bytes());
        let renew_at = ca.renew_at(&serial[..32], received.1, not_after);
        let times = [received.1, renew_at, not_after].map(unix_ms);
        Self {
            number,
            renewals,
            schedule: Schedule::new(times[0], times[1], times[2], received),
        }
    }

    fn due(&self, start: (Instant, SystemTime)) -> Duration {
        self.schedule.wait(start)
    }
}

/// The most that lie within one minute, wherever it begins.
fn busiest_minute(times: &[Duration]) -> usize {
    let mut times = times.to_vec();
    times.sort();
    let within = |from: &Duration| {
        let end = *from + Duration::from_secs(60);
        times.partition_point(|time| *time < end) - times.partition_point(|time| time < from)
    };
    times.iter().map(within).max().unwrap_or(0)
}

#[test]
fn a_fleet_that_was_issued_together_renews_spread_out() {
    const FLEET: u32 = 4000;
    let start = now();
    let ca = Slots::new(&[7; 32]);
    let issue = |number, renewals, since| Workload::receive(number, renewals, (start, since), &ca);
    let mut fleet: Vec<_> = (0..FLEET)
        .map(|number| issue(number, 0, Duration::ZERO))
        .collect();
    let mut renewals = Vec::new();
    for _ in 0..6 {
        renewals.extend(fleet.iter().map(|workload| workload.due(start)));
        let next = |had: &Workload| issue(had.number, had.renewals + 1, had.due(start));
        fleet = fleet.iter().map(next).collect();
    }
    assert_eq!(renewals.len(), 6 * FLEET as usize);
    assert!(renewals.iter().all(|due| *due >= 12 * HOUR));
    let busiest = busiest_minute(&renewals) as f64 / f64::from(FLEET);
    println!("busiest minute: {:.2} % of the fleet", busiest * 100.0);
    assert!(busiest <= 0.015, "{busiest}");
}
