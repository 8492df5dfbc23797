use super::*;
use crate::store::tests::new_ca;

const HOUR: Duration = Duration::from_secs(60 * 60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

struct Machine {
    clock: Clock,
    session: Session,
    start: SystemTime,
    _folder: tempfile::TempDir,
}

impl Machine {
    /// Of a CA that was made just now.
    fn new() -> Self {
        let (folder, _ca) = new_ca();
        let mut session =
            Session::connect(&(&folder.path().join("ca")).into(), Access::Write).unwrap();
        Self {
            clock: Clock::open(&mut session, Duration::ZERO).unwrap(),
            session,
            start: SystemTime::now(),
            _folder: folder,
        }
    }

    /// How far the time is from the start when the machine's clock is, and the process has run for `ran`.
    fn time(&mut self, says: Duration, ran: Duration) -> Duration {
        let time = self.clock.time(&mut self.session, self.start + says, ran);
        // Whole seconds are kept, and the CA was made a moment before.
        let since = (time.unwrap() + Duration::from_secs(60)).duration_since(self.start);
        Duration::from_secs(since.unwrap().as_secs() / 600 * 600)
    }

    fn restart(&mut self) {
        self.clock = Clock::open(&mut self.session, Duration::ZERO).unwrap();
    }
}

#[test]
fn a_clock_that_goes_with_the_process_or_was_off_for_a_moment_is_right() {
    let mut machine = Machine::new();
    for hours in 0..5 {
        assert_eq!(machine.time(hours * HOUR, hours * HOUR), hours * HOUR);
    }
    machine.restart();
    assert_eq!(machine.time(5 * HOUR, Duration::ZERO), 5 * HOUR);
}

#[test]
fn a_clock_a_year_ahead_is_not_followed_however_often_the_ca_starts() {
    let mut machine = Machine::new();
    for start in 0..20 {
        // What it gets is the time that it has run.
        assert_eq!(machine.time(YEAR, Duration::ZERO), start * 3 * HOUR);
        assert_eq!(machine.time(YEAR, 3 * HOUR), (start + 1) * 3 * HOUR);
        machine.restart();
    }
}

#[test]
fn a_clock_that_is_set_right_was_never_followed() {
    let mut machine = Machine::new();
    assert_eq!(machine.time(YEAR, HOUR), HOUR);
    assert_eq!(machine.time(2 * HOUR, 2 * HOUR), 2 * HOUR);
    // The wait begins anew.
    assert_eq!(machine.time(YEAR, 3 * HOUR), 3 * HOUR);
    assert_eq!(machine.time(YEAR, 6 * HOUR), 6 * HOUR);
    assert_eq!(machine.time(HOUR, 6 * HOUR), HOUR, "back at once");
}

#[test]
fn a_ca_that_was_off_for_a_year_sweeps_again_after_some_hours() {
    let mut machine = Machine::new();
    assert_eq!(machine.time(YEAR, Duration::ZERO), Duration::ZERO);
    assert_eq!(machine.time(YEAR + 4 * HOUR, 4 * HOUR), YEAR + 4 * HOUR);
    machine.restart();
    assert_eq!(
        machine.time(YEAR + 5 * HOUR, Duration::ZERO),
        YEAR + 5 * HOUR
    );
}
