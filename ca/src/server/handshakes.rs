//! Whose handshake is next when more connect than the CA can shake hands with: theirs whose addresses have had the fewest.
//!
//! A handshake costs as much as a certificate and comes before more is known of a client than its address. Without an
//! order, whoever connects without end would have everybody else time out, those whose certificates are about to end
//! among them.

use super::Options;
use crate::admission::{Admission, Source};
use crate::turns::{Due, Turn, TurnedAway, Turns};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// Handshakes of one address that are as good as none: a fleet of some thousands behind it starts within a minute. Not a
/// setting: whoever lets an address have more certificates would put a flood in line with everybody else.
const PER_MINUTE: u32 = 6000;

/// The places for handshakes, and the line for them.
#[derive(Debug)]
pub(super) struct Handshakes {
    turns: Arc<Turns>,
    /// What each address has had lately. Whoever is over it is served last, and not refused for that.
    had: Admission,
}

impl Handshakes {
    pub(super) fn new(options: &Options, now: Instant) -> Self {
        Self {
            turns: Turns::new(options.handshakes()),
            had: Admission::new(PER_MINUTE, now),
        }
    }

    /// Waits for a place, which is free again when the guard is dropped. Cancel safe.
    ///
    /// # Errors
    /// When the line is full of others that come first, or does not move.
    pub(super) async fn take(&self, address: IpAddr) -> Result<Turn, TurnedAway> {
        let (source, now) = (Source::address(address), Instant::now());
        let due = self.had.spent_until(&source, now);
        self.had.charge(&source, now);
        self.turns.take(Due::at(due)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::poll;
    use std::pin::pin;

    #[tokio::test]
    async fn an_address_that_has_had_many_waits_for_those_that_have_had_none() {
        let options = Options {
            handshakes_at_once: 1,
            certificates_per_minute_per_address: u32::MAX,
            ..Options::default()
        };
        let handshakes = Handshakes::new(&options, Instant::now());
        let of = |last: u8| IpAddr::from([127, 0, 0, last]);
        for _ in 0..1000 {
            handshakes.take(of(1)).await.unwrap();
        }
        let worked_on = handshakes.take(of(1)).await.unwrap();
        let mut flood = pin!(handshakes.take(of(1)));
        assert!(poll!(&mut flood).is_pending());
        let mut polite = pin!(handshakes.take(of(2)));
        assert!(poll!(&mut polite).is_pending());
        drop(worked_on);
        assert!(poll!(&mut flood).is_pending());
        let std::task::Poll::Ready(Ok(turn)) = poll!(&mut polite) else {
            panic!("it came last and has had none before");
        };
        drop(turn);
        assert!(poll!(&mut flood).is_ready(), "nobody else waits");
    }
}
