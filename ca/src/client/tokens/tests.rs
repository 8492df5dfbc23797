use super::*;

type Answer = oneshot::Receiver<Result<String, Status>>;

fn ask(desk: &mut Desk, audience: &str, now: Instant) -> Answer {
    let (sender, answer) = oneshot::channel();
    desk.receive((vec![audience.to_owned()], sender), now);
    answer
}

fn code(mut answer: Answer) -> Option<Code> {
    let answered = answer.try_recv().ok()?;
    Some(answered.map_or_else(|refusal| refusal.code(), |_| Code::Ok))
}

#[test]
fn a_token_that_is_kept_is_given_while_others_wait_for_the_ca() {
    let now = Instant::now();
    let mut desk = Desk::new(now);
    let first = ask(&mut desk, "a", now);
    let second = ask(&mut desk, "a", now);
    let due = desk.next(now).unwrap();
    desk.settle(due, Ok(("t".to_owned(), Duration::from_secs(60))), now);
    assert_eq!(code(first), Some(Code::Ok));
    assert!(desk.next(now).is_none(), "one call for both");
    assert_eq!(code(second), Some(Code::Ok));

    let slow = ask(&mut desk, "slow", now);
    let due = desk.next(now).unwrap();
    assert_eq!(code(ask(&mut desk, "a", now)), Some(Code::Ok));
    assert_eq!(code(slow), None);
    drop(due);
    let later = now + Duration::from_secs(30);
    assert_eq!(code(ask(&mut desk, "a", later)), None, "half of its life");
}

#[test]
fn whoever_has_gone_causes_no_call_and_takes_no_place() {
    let now = Instant::now();
    let mut desk = Desk::new(now);
    for _ in 0..MOST_WAITING {
        drop(ask(&mut desk, "gone", now));
    }
    let all: Vec<_> = (0..MOST_WAITING)
        .map(|n| ask(&mut desk, &n.to_string(), now))
        .collect();
    let refused = ask(&mut desk, "one more", now);
    assert_eq!(code(refused), Some(Code::Unavailable));
    drop(all);
    assert!(desk.next(now).is_none());
    assert_eq!(desk.spent_until, now, "nothing spent");
}

#[test]
fn a_ca_without_tokens_is_asked_once_a_minute() {
    let now = Instant::now();
    let mut desk = Desk::new(now);
    let mut refusal = Status::unimplemented("none here");
    let reason = tonic::metadata::MetadataValue::from_static("no_tokens");
    refusal.metadata_mut().insert(REASON_METADATA, reason);
    let first = ask(&mut desk, "a", now);
    let due = desk.next(now).unwrap();
    desk.settle(due, Err(refusal.into()), now);
    assert_eq!(code(first), Some(Code::Unimplemented));
    assert_eq!(code(ask(&mut desk, "b", now)), Some(Code::Unimplemented));
    let later = now + NO_TOKENS_HOLDS;
    assert_eq!(code(ask(&mut desk, "b", later)), None);
}

#[test]
fn a_status_that_is_not_of_the_ca_is_a_failure_and_not_remembered() {
    let now = Instant::now();
    let mut desk = Desk::new(now);
    let first = ask(&mut desk, "a", now);
    let due = desk.next(now).unwrap();
    desk.settle(due, Err(Status::unimplemented("a relay").into()), now);
    assert_eq!(code(first), Some(Code::Unavailable));
    assert!(desk.none.is_none());
}

#[test]
fn calls_of_the_ca_are_few_whatever_is_asked() {
    let now = Instant::now();
    let mut desk = Desk::new(now);
    let mut calls = 0;
    for n in 0..10 * CALLS_PER_MINUTE {
        let answer = ask(&mut desk, &n.to_string(), now);
        match desk.next(now) {
            Some(_) => calls += 1,
            None => assert_eq!(code(answer), Some(Code::Unavailable)),
        }
    }
    assert_eq!(calls, CALLS_PER_MINUTE);
}
