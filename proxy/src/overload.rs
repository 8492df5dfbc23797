//! How full memory is, and what this sidecar still takes on: below 95 % of what it may use everything, above that no
//! requests (503 before a body is read), above 98 % no connections. Refusing early beats being killed with all that is in
//! flight.
//!
//! Read by one task every [`EVERY`], never by a request: those look at one atomic. `overload/memory.rs` finds the limit
//! and reads the use. Without a limit nothing is watched.

mod memory;

use crate::metrics::Metrics;
use memory::Memory;
use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// A sidecar at full speed takes in some tens of MiB in this time: a few percent of a small container's limit.
const EVERY: Duration = Duration::from_millis(50);
/// How often the log tells of a change; a sidecar at the edge changes with every request that ends.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// Shares of the limit, in percent: where shedding begins and where it ends again. Apart, so that the answer does not
/// change with each request that ends.
const SHED_AT: u64 = 95;
const TAKE_AT: u64 = 90;
/// The same for accepting.
const CLOSE_AT: u64 = 98;
const OPEN_AT: u64 = 95;

/// What this sidecar takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Level {
    Normal = 0,
    /// No requests.
    Shedding = 1,
    /// Not even connections.
    Closed = 2,
}

impl Level {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Shedding => "shedding",
            Self::Closed => "closed",
        }
    }

    /// The level after this one when `percent` of the limit is used.
    fn next(self, percent: u64) -> Self {
        if percent >= CLOSE_AT || (self == Self::Closed && percent >= OPEN_AT) {
            Self::Closed
        } else if percent >= SHED_AT || (self >= Self::Shedding && percent >= TAKE_AT) {
            Self::Shedding
        } else {
            Self::Normal
        }
    }
}

/// Memory use at one moment, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) used: u64,
    pub(crate) limit: u64,
}

impl Reading {
    /// Rounded down; a limit of nothing is full.
    fn percent(self) -> u64 {
        self.used
            .saturating_mul(100)
            .checked_div(self.limit)
            .unwrap_or(100)
    }
}

/// The watch over this process's memory, shared by all who ask.
#[derive(Debug)]
pub(crate) struct Overload {
    level: AtomicU8,
    memory: Option<Memory>,
    metrics: Arc<Metrics>,
}

impl Overload {
    /// Watches `configured` bytes of resident memory; without it, the limit of the memory cgroup that this process is in.
    ///
    /// # Errors
    /// When what has to be watched cannot be read.
    pub(crate) fn new(configured: Option<u64>, metrics: Arc<Metrics>) -> io::Result<Self> {
        let memory = Memory::find(configured, Path::new("/"))?;
        Ok(Self::over(memory, metrics))
    }

    fn over(memory: Option<Memory>, metrics: Arc<Metrics>) -> Self {
        let limit = memory.as_ref().map_or(0, Memory::limit);
        metrics.memory_limit.set(gauge(limit));
        Self {
            level: AtomicU8::new(Level::Normal as u8),
            memory,
            metrics,
        }
    }

    pub(crate) fn level(&self) -> Level {
        match self.level.load(Ordering::Relaxed) {
            0 => Level::Normal,
            1 => Level::Shedding,
            _ => Level::Closed,
        }
    }

    pub(crate) fn takes_requests(&self) -> bool {
        self.level() < Level::Shedding
    }

    pub(crate) fn takes_connections(&self) -> bool {
        self.level() < Level::Closed
    }

    /// The use of memory now; None where no limit is known.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn reading(&self) -> io::Result<Option<Reading>> {
        self.memory.as_ref().map(Memory::read).transpose()
    }

    /// Keeps the level up to date for as long as it is polled; pending for ever where there is nothing to watch.
    pub(crate) async fn watch(&self) -> Infallible {
        if self.memory.is_none() {
            return std::future::pending().await;
        }
        let mut turn = tokio::time::interval(EVERY);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut teller = Teller::default();
        loop {
            turn.tick().await;
            self.look(&mut teller);
        }
    }

    fn look(&self, teller: &mut Teller) {
        let reading = match self.reading() {
            Ok(Some(reading)) => reading,
            Ok(None) => return,
            // Whatever was true stays true: neither the kernel's silence nor a full file table makes memory free.
            Err(error) => return teller.unreadable(&error),
        };
        self.metrics.memory_used.set(gauge(reading.used));
        let before = self.level();
        let now = before.next(reading.percent());
        self.level.store(now as u8, Ordering::Relaxed);
        self.metrics.overload_level.set(i64::from(now as u8));
        teller.saw(now, reading);
    }
}

/// Tells the log of changes, at most once in [`TELL_AGAIN`]; the last of them is always told.
#[derive(Debug, Default)]
struct Teller {
    told: Option<(Level, Instant)>,
}

impl Teller {
    fn saw(&mut self, level: Level, reading: Reading) {
        let (known, is_recent) = self.told.map_or((Level::Normal, false), |(level, at)| {
            (level, at.elapsed() < TELL_AGAIN)
        });
        if level == known || is_recent {
            return;
        }
        self.told = Some((level, Instant::now()));
        tracing::warn!(
            level = level.as_str(),
            used_bytes = reading.used,
            limit_bytes = reading.limit,
            "memory use changed what is taken on"
        );
    }

    fn unreadable(&mut self, error: &io::Error) {
        let level = self.told.map_or(Level::Normal, |(level, _)| level);
        if self.told.is_some_and(|(_, at)| at.elapsed() < TELL_AGAIN) {
            return;
        }
        self.told = Some((level, Instant::now()));
        tracing::warn!(%error, "memory use cannot be read");
    }
}

fn gauge(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
