use super::*;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Waker};

const BOUNDS: Bounds = Bounds {
    places: 1,
    waiting: 3,
    wait: Duration::from_secs(3),
};

fn due_in(seconds: u64) -> Due {
    Due(Instant::now() + Duration::from_secs(seconds))
}

/// Lets it get as far as it can.
fn poll<F: Future>(future: &mut Pin<&mut F>) -> Option<F::Output> {
    let mut context = Context::from_waker(Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_due_first_goes_first_whoever_came_first() {
    let turns = Turns::new(BOUNDS);
    let first = turns.take(due_in(900)).await.unwrap();
    let mut late = pin!(turns.take(due_in(600)));
    let mut soon = pin!(turns.take(due_in(5)));
    let mut stranger = pin!(turns.take(Due::without_certificate()));
    for waiting in [&mut late, &mut soon, &mut stranger] {
        assert!(poll(waiting).is_none());
    }
    drop(first);
    assert!(poll(&mut late).is_none() && poll(&mut stranger).is_none());
    let turn = poll(&mut soon).unwrap().unwrap();
    drop(turn);
    assert!(poll(&mut late).is_none());
    let turn = poll(&mut stranger).unwrap().unwrap();
    drop(turn);
    assert!(poll(&mut late).unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_full_line_turns_away_who_is_due_last_be_it_the_newcomer_or_not() {
    let turns = Turns::new(BOUNDS);
    let _first = turns.take(due_in(5)).await.unwrap();
    let mut waiting = [60, 600, 20].map(|seconds| Box::pin(turns.take(due_in(seconds))));
    for waiting in &mut waiting {
        assert!(poll(&mut waiting.as_mut()).is_none());
    }
    let newcomer = turns.take(due_in(3600)).await.unwrap_err();
    assert_eq!(newcomer.retry_after, LATEST_RETURN);
    let mut urgent = pin!(turns.take(due_in(10)));
    assert!(poll(&mut urgent).is_none());
    let pushed_out = poll(&mut waiting[1].as_mut()).unwrap();
    assert!(pushed_out.is_err());
    assert!(poll(&mut waiting[0].as_mut()).is_none());
    assert!(turns.lock().waiting.len() <= BOUNDS.waiting);
}

#[tokio::test(start_paused = true)]
async fn a_line_that_does_not_move_is_left_and_who_returns_does_so_before_the_end() {
    let turns = Turns::new(BOUNDS);
    let _first = turns.take(due_in(5)).await.unwrap();
    for (left, least, most) in [(0, 1, 1), (12, 1, 2), (60, 9, 10), (3600, 30, 30)] {
        let refused = turns.take(due_in(left)).await.unwrap_err();
        let found = refused.retry_after;
        let range = Duration::from_secs(least)..=Duration::from_secs(most);
        assert!(range.contains(&found), "{left}: {found:?}");
        assert!(turns.lock().waiting.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn no_place_is_lost_when_callers_go_away() {
    let turns = Turns::new(BOUNDS);
    let first = turns.take(due_in(5)).await.unwrap();
    let mut gone = Box::pin(turns.take(due_in(6)));
    let mut called = Box::pin(turns.take(due_in(7)));
    let mut next = pin!(turns.take(due_in(8)));
    assert!(poll(&mut gone.as_mut()).is_none() && poll(&mut called.as_mut()).is_none());
    assert!(poll(&mut next).is_none());
    drop(gone);
    // Called, and gone before it has noticed.
    drop(first);
    drop(called);
    let turn = poll(&mut next).unwrap().unwrap();
    assert_eq!(turns.lock().free, 0);
    drop(turn);
    assert_eq!(turns.lock().free, 1);
    assert!(turns.lock().waiting.is_empty());
}
