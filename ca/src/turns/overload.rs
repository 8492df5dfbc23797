//! Ten times as many calls as a CA can serve, on a simulated clock: with the draw of renewal times, the line, and the waits
//! that clients keep, as they are.

use super::*;
use crate::authority::slots::Slots;
use crate::client::schedule::not_before;
use std::time::UNIX_EPOCH;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, sleep_until};

/// What one certificate takes: a hundred a second.
const WORK: Duration = Duration::from_millis(10);
/// Between two calls of those who are in no hurry: a thousand a second.
const BETWEEN: Duration = Duration::from_millis(1);
/// A third of what the CA can do.
const FLEET: usize = 600;
const LIFE: Duration = Duration::from_secs(30);
const RUN: Duration = Duration::from_secs(120);

const BOUNDS: Bounds = Bounds {
    places: 1,
    waiting: 100,
    wait: Duration::from_secs(4),
};

/// A certificate, from the call to the end of the work on it.
async fn issue(ca: &Arc<Turns>, end: Instant) -> Result<(), TurnedAway> {
    let _turn = ca.take(Due(end)).await?;
    sleep(WORK).await;
    Ok(())
}

/// What a sidecar had to live through.
#[derive(Default)]
struct Lived {
    /// What its certificates had left when the next one came; `None` for one that had ended.
    left: Vec<Option<Duration>>,
    /// From the first call for a certificate to its receipt.
    took: Vec<Duration>,
    turned_away: usize,
}

async fn live(ca: Arc<Turns>, slots: Arc<Slots>, number: usize, until: Instant) -> Lived {
    let mut lived = Lived::default();
    let mut end = Instant::now() + LIFE;
    while Instant::now() < until {
        let serial =
            crate::ledger::fingerprint(format!("{number} {}", lived.left.len()).as_bytes());
        let slot = slots.renew_at(&serial, UNIX_EPOCH, UNIX_EPOCH + LIFE);
        let asked = end - LIFE + slot.duration_since(UNIX_EPOCH).unwrap();
        sleep_until(asked).await;
        while let Err(turned_away) = issue(&ca, end).await {
            lived.turned_away += 1;
            sleep(not_before(turned_away.retry_after, WORK)).await;
        }
        let now = Instant::now();
        lived.left.push(end.checked_duration_since(now));
        lived.took.push(now - asked);
        end = now + LIFE;
    }
    lived
}

/// Those who have an hour left and call all the same, whatever they are told. Gives how many calls were made, and refused.
async fn flood(ca: Arc<Turns>, until: Instant) -> (usize, usize) {
    let (mut calls, mut made) = (JoinSet::new(), 0);
    let mut next = interval(BETWEEN);
    let mut refused = 0;
    while Instant::now() < until {
        next.tick().await;
        let ca = Arc::clone(&ca);
        let end = Instant::now() + Duration::from_secs(3600);
        calls.spawn(async move { issue(&ca, end).await.is_err() });
        made += 1;
        while let Some(ended) = calls.try_join_next() {
            refused += usize::from(ended.unwrap());
        }
    }
    while let Some(ended) = calls.join_next().await {
        refused += usize::from(ended.unwrap());
    }
    (made, refused)
}

#[tokio::test(start_paused = true)]
async fn at_ten_times_what_it_can_serve_no_certificate_expires() {
    let (ca, slots) = (Turns::new(BOUNDS), Arc::new(Slots::new(&[7; 32])));
    let until = Instant::now() + RUN;
    let mut fleet = JoinSet::new();
    for number in 0..FLEET {
        fleet.spawn(live(Arc::clone(&ca), Arc::clone(&slots), number, until));
    }
    let (made, refused) = flood(ca, until).await;
    let (mut left, mut took, mut turned_away) = (Vec::new(), Vec::new(), 0);
    while let Some(lived) = fleet.join_next().await {
        let lived = lived.unwrap();
        left.extend(lived.left);
        took.extend(lived.took);
        turned_away += lived.turned_away;
    }
    left.sort();
    took.sort();
    let served = RUN.as_secs_f64() / WORK.as_secs_f64();
    println!(
        "{:.1} times what can be served; {refused} calls of the others turned away, {turned_away} of the fleet; \
         {} renewals took p50 {:?}, p99 {:?}; of {LIFE:?} were left at least {:?}",
        (made + took.len()) as f64 / served,
        took.len(),
        took[took.len() / 2],
        took[took.len() * 99 / 100],
        left[0],
    );
    assert!((made + took.len()) as f64 > 10.0 * served);
    assert!(left.iter().all(Option::is_some), "a certificate expired");
    // Those in no hurry get what the fleet leaves, and not nothing.
    assert!(made - refused > 1000);
}
