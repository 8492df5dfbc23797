//! The configuration in force, which may be replaced while connections last.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Notify;

use super::Config;

/// One for all of a process. Reading it takes no lock.
#[derive(Debug)]
pub struct Live {
    present: ArcSwap<Config>,
    replaced: Notify,
}

impl Live {
    pub fn new(config: Config) -> Self {
        Self {
            present: ArcSwap::from_pointee(config),
            replaced: Notify::new(),
        }
    }

    /// For a look. Who keeps it takes [`Live::load_full`].
    pub fn load(&self) -> Guard<Arc<Config>> {
        self.present.load()
    }

    pub fn load_full(&self) -> Arc<Config> {
        self.present.load_full()
    }

    /// Puts `config` in force.
    pub fn replace(&self, config: Arc<Config>) {
        self.present.store(config);
        self.replaced.notify_waiters();
    }

    /// Waits until another configuration than `known` is in force. Cancel safe.
    pub async fn other_than(&self, known: &Arc<Config>) -> Arc<Config> {
        loop {
            // Made before the look, so that one that comes in between still wakes us.
            let replaced = self.replaced.notified();
            let present = self.load_full();
            if !Arc::ptr_eq(&present, known) {
                return present;
            }
            replaced.await;
        }
    }
}
