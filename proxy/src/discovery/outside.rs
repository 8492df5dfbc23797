//! Names outside the mesh. With a wildcard in the configuration the workload makes them up, so no list says which there are:
//! those are followed that somebody calls, and for a while longer.

use super::follow::Followed;
use crate::config::Endpoints;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What nobody has called for so long is not asked for any more, and what was known of it is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(300);
/// Names that are followed although no connection to them is kept.
const MOST_UNUSED: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Outside {
    names: HashMap<Endpoints, Name>,
}

#[derive(Debug)]
struct Name {
    followed: Arc<Followed>,
    used: Instant,
}

impl Name {
    /// Whether a connection, or the way to one, is kept.
    fn is_held(&self) -> bool {
        Arc::strong_count(&self.followed) > 1
    }
}

impl Outside {
    /// What is known of these endpoints; `begin` begins to follow them.
    pub(super) fn get(
        &mut self,
        endpoints: &Endpoints,
        begin: impl FnOnce() -> Arc<Followed>,
    ) -> Arc<Followed> {
        let now = Instant::now();
        if let Some(name) = self.names.get_mut(endpoints) {
            name.used = now;
            return Arc::clone(&name.followed);
        }
        self.forget(now);
        let followed = begin();
        let name = Name {
            followed: Arc::clone(&followed),
            used: now,
        };
        self.names.insert(endpoints.clone(), name);
        followed
    }

    /// Lets go of what nobody calls any more, and of the one that was called longest ago if there are too many.
    pub(super) fn forget(&mut self, now: Instant) {
        self.names.retain(|_, name| {
            if name.is_held() {
                name.used = now;
            }
            now.saturating_duration_since(name.used) < FORGET_AFTER
        });
        let unused = self.names.iter().filter(|(_, name)| !name.is_held());
        if unused.clone().count() >= MOST_UNUSED
            && let Some((oldest, _)) = unused.min_by_key(|(_, name)| name.used)
        {
            let oldest = oldest.clone();
            self.names.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Endpoint, Source};
    use crate::discovery::follow::Whose;

    fn name(number: usize) -> Endpoints {
        let host = format!("h{number}.example.com");
        Endpoints::Listed(vec![Source::Name(Endpoint { host, port: 443 })])
    }

    fn follow(outside: &mut Outside, number: usize) -> Arc<Followed> {
        let endpoints = name(number);
        outside.get(&endpoints, || {
            Arc::new(Followed::new(endpoints.clone(), Whose::Outside))
        })
    }

    #[test]
    fn a_name_is_followed_once_for_all_who_call_it() {
        let mut outside = Outside::default();
        let first = follow(&mut outside, 1);
        assert!(Arc::ptr_eq(&first, &follow(&mut outside, 1)));
        assert!(!Arc::ptr_eq(&first, &follow(&mut outside, 2)));
    }

    #[test]
    fn what_nobody_calls_any_more_is_forgotten_and_what_somebody_keeps_is_not() {
        let mut outside = Outside::default();
        let kept = follow(&mut outside, 1);
        let gone = Arc::downgrade(&follow(&mut outside, 2));
        let now = Instant::now();
        outside.forget(now);
        assert_eq!(gone.strong_count(), 1);
        outside.forget(now + FORGET_AFTER);
        assert_eq!(gone.strong_count(), 0);
        assert!(Arc::ptr_eq(&kept, &follow(&mut outside, 1)));
    }

    #[test]
    fn names_that_are_made_up_are_followed_in_bounded_number() {
        let mut outside = Outside::default();
        let kept = follow(&mut outside, 0);
        for number in 1..=2 * MOST_UNUSED {
            follow(&mut outside, number);
            assert!(outside.names.len() <= MOST_UNUSED + 1, "{number}");
        }
        assert!(Arc::ptr_eq(&kept, &follow(&mut outside, 0)));
        // The last ones are those that are left.
        assert!(outside.names.contains_key(&name(2 * MOST_UNUSED)));
        assert!(!outside.names.contains_key(&name(1)));
    }
}
