//! For every key of one limit the instant at which its budget is full again, in bounded memory.
//!
//! An instant that has passed says nothing, so its entry can go without loss. Entries are therefore evicted only
//! then, and a key in deficit is never forgotten. When all the places a new key could take hold keys in deficit,
//! and the table has its full size, the key is counted in a sketch instead: four instants, each shared with other
//! keys, of which the earliest is an upper bound of its own. It may be refused too early, never too late.

use super::digest::Digest;

const BUCKET: usize = 8;
const ROWS: usize = 4;

/// Instants are in ticks.
#[derive(Debug)]
pub(super) struct Store {
    /// Buckets of [`BUCKET`] slots. A key has two of them to choose from, so that the table is three
    /// quarters full before one finds no place.
    slots: Vec<Slot>,
    max_slots: usize,
    /// Made when it is first needed.
    sketch: Option<Sketch>,
    /// No key is in deficit from here on.
    idle_from: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    digest: Digest,
    full_at: u64,
}

impl Store {
    /// Starts small and grows with use to `max_keys` entries, rounded up to a power of two.
    pub(super) fn new(max_keys: usize) -> Self {
        let max_slots = max_keys.next_power_of_two().max(2 * BUCKET);
        Self {
            slots: vec![Slot::default(); BUCKET],
            max_slots,
            sketch: None,
            idle_from: 0,
        }
    }

    /// When the budget of the key is full; not after `now` if nothing is known of it.
    pub(super) fn full_at(&self, digest: Digest, now: u64) -> u64 {
        match self.find(digest) {
            Some(at) => self.slots[at].full_at,
            None => self
                .sketch
                .as_ref()
                .map_or(0, |sketch| sketch.full_at(digest, now)),
        }
    }

    /// Records when the budget of the key will be full.
    pub(super) fn set(&mut self, digest: Digest, full_at: u64, now: u64) {
        if full_at <= now {
            return;
        }
        self.idle_from = self.idle_from.max(full_at);
        loop {
            if let Some(at) = self.find(digest).or_else(|| self.vacant(digest, now)) {
                self.slots[at] = Slot { digest, full_at };
                return;
            }
            if self.slots.len() >= self.max_slots {
                break;
            }
            self.grow(now);
        }
        let width = self.max_slots;
        self.sketch
            .get_or_insert_with(|| Sketch::new(width))
            .raise(digest, full_at);
    }

    /// Rewrites every debt, that is, the time from `now` until a budget is full.
    pub(super) fn convert(&mut self, now: u64, convert: impl Fn(u64) -> u64) {
        let rewrite = |full_at: &mut u64| {
            if *full_at > now {
                *full_at = now + convert(*full_at - now);
            }
        };
        self.slots
            .iter_mut()
            .for_each(|slot| rewrite(&mut slot.full_at));
        if let Some(sketch) = &mut self.sketch {
            sketch.cells.iter_mut().for_each(rewrite);
            rewrite(&mut sketch.idle_from);
        }
        rewrite(&mut self.idle_from);
    }

    /// Whether no key is in deficit.
    pub(super) fn is_idle(&self, now: u64) -> bool {
        self.idle_from <= now
    }

    fn find(&self, digest: Digest) -> Option<usize> {
        let is_it = |slot: &Slot| slot.digest == digest;
        let in_bucket = |start| {
            self.bucket(start)
                .iter()
                .position(is_it)
                .map(|at| start + at)
        };
        self.buckets(digest).into_iter().find_map(in_bucket)
    }

    /// A slot that may be overwritten, in the emptier of the two buckets.
    fn vacant(&self, digest: Digest, now: u64) -> Option<usize> {
        let is_vacant = |slot: &&Slot| slot.full_at <= now;
        let vacancies = |start| self.bucket(start).iter().filter(is_vacant).count();
        let [first, second] = self.buckets(digest);
        let start = if vacancies(second) > vacancies(first) {
            second
        } else {
            first
        };
        self.bucket(start)
            .iter()
            .position(|slot| is_vacant(&slot))
            .map(|at| start + at)
    }

    fn bucket(&self, start: usize) -> &[Slot] {
        &self.slots[start..start + BUCKET]
    }

    /// The indices at which the key's buckets start.
    fn buckets(&self, digest: Digest) -> [usize; 2] {
        let mask = self.slots.len() / BUCKET - 1;
        digest.map(|half| (half as usize & mask) * BUCKET)
    }

    /// Doubles the table. The entries of one bucket go to two, so that they always fit.
    fn grow(&mut self, now: u64) {
        let larger = vec![Slot::default(); 2 * self.slots.len()];
        let old = std::mem::replace(&mut self.slots, larger);
        let old_mask = old.len() / BUCKET - 1;
        for (at, slot) in old
            .into_iter()
            .enumerate()
            .filter(|(_, slot)| slot.full_at > now)
        {
            let [first, second] = self.buckets(slot.digest);
            let was_first = slot.digest[0] as usize & old_mask == at / BUCKET;
            let start = if was_first { first } else { second };
            self.slots[start + at % BUCKET] = slot;
        }
    }
}

/// A count-min sketch of instants with conservative update: a key raises its cells to its own new instant, and
/// only those that are below.
#[derive(Debug)]
struct Sketch {
    /// [`ROWS`] rows of equal, power-of-two width.
    cells: Vec<u64>,
    /// All cells have passed from here on.
    idle_from: u64,
}

impl Sketch {
    fn new(width: usize) -> Self {
        Self {
            cells: vec![0; ROWS * width],
            idle_from: 0,
        }
    }

    fn full_at(&self, digest: Digest, now: u64) -> u64 {
        if self.idle_from <= now {
            return 0;
        }
        self.places(digest)
            .map(|at| self.cells[at])
            .min()
            .unwrap_or(0)
    }

    fn raise(&mut self, digest: Digest, full_at: u64) {
        self.idle_from = self.idle_from.max(full_at);
        for at in self.places(digest) {
            self.cells[at] = self.cells[at].max(full_at);
        }
    }

    /// One cell in each row; the rows use different bits of the digest.
    fn places(&self, digest: Digest) -> impl Iterator<Item = usize> + use<> {
        let width = self.cells.len() / ROWS;
        let [a, b] = digest;
        [
            a >> 32,
            b >> 32,
            a.rotate_left(16) ^ b,
            b.rotate_left(16) ^ a,
        ]
        .into_iter()
        .enumerate()
        .map(move |(row, bits)| row * width + (bits as usize & (width - 1)))
    }
}

#[cfg(test)]
mod tests;
