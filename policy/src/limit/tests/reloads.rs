//! State that outlives the policy it was charged under.

use super::*;

#[test]
fn a_reload_with_the_same_numbers_changes_nothing() {
    let limits = Limits::default();
    assert_eq!(
        passed(
            &limits,
            &[&limit("l", &["identity"], "1/h", 9)],
            &caller("a"),
            SECOND,
            4
        ),
        4
    );
    assert_eq!(
        passed(
            &limits,
            &[&limit("l", &["identity"], "1/h", 9)],
            &caller("a"),
            SECOND,
            9
        ),
        5
    );
}

#[test]
fn a_changed_rate_or_burst_keeps_the_share_that_was_left() {
    for (rate, burst, left) in [
        ("1/h", 40, 10),
        ("1/h", 4, 1),
        ("60/h", 20, 5),
        ("10/h", 10, 2),
    ] {
        let limits = Limits::default();
        assert_eq!(
            passed(
                &limits,
                &[&limit("l", &["identity"], "1/h", 20)],
                &caller("a"),
                SECOND,
                15
            ),
            15
        );
        let after = limit("l", &["identity"], rate, burst);
        assert_eq!(
            passed(&limits, &[&after], &caller("a"), SECOND, 99),
            left,
            "{rate} {burst}"
        );
        assert_eq!(
            passed(&limits, &[&after], &caller("b"), SECOND, 99),
            burst,
            "a new key is not affected"
        );
    }
}

#[test]
fn a_limit_that_left_the_policy_is_forgotten_once_it_says_nothing() {
    let (limits, slow) = (Limits::default(), limit("slow", &["identity"], "1/h", 1));
    assert_eq!(passed(&limits, &[&slow], &caller("a"), SECOND, 1), 1);
    for id in 0..100 {
        let spec = limit(&format!("l{id}"), &["identity"], "1/s", 1);
        assert_eq!(
            passed(&limits, &[&spec], &caller("a"), SECOND * (10 + id), 1),
            1
        );
    }
    assert!(limits.state.lock().unwrap().limiters.len() <= MIN_SWEEP);
    assert_eq!(passed(&limits, &[&slow], &caller("a"), SECOND * 200, 1), 0);
}
