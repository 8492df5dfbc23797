//! What all targets have in common: the bound on the cost of one input, and laws that several of them state.

pub mod h1;

use std::fmt::Display;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What one input may cost. Counted in processor time of the thread, so that a busy machine makes no findings; the
/// instrumented build takes several times as long as a release, so that the bound is strict where it counts.
const MAX_CPU: Duration = Duration::from_millis(100);

/// [`libfuzzer_sys::fuzz_target`], with the cost of each input held to [`bounded`].
#[macro_export]
macro_rules! target {
    (|$input:ident: $type:ty| $laws:expr) => {
        ::libfuzzer_sys::fuzz_target!(|$input: $type| $crate::bounded(|| $laws));
    };
}

/// Checks the laws on one input.
///
/// # Panics
/// When that takes more than 100 ms of processor time. A panic is a finding.
pub fn bounded(laws: impl FnOnce()) {
    let before = cpu_time();
    laws();
    let spent = cpu_time() - before;
    assert!(spent <= MAX_CPU, "one input took {spent:?} of CPU");
}

/// An error reaches logs and replies: whatever the input, its text is one line without controls.
///
/// # Panics
/// When it is not.
pub fn assert_one_line(text: &impl Display) {
    let text = text.to_string();
    assert!(!text.contains(char::is_control), "{text:?}");
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("a thread's CPU time is not negative")
}
