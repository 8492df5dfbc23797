use super::super::Limits;
use super::*;

const MAX_KEYS: usize = 1024;

/// Digests as good as random (SplitMix64).
fn digest(key: u64) -> Digest {
    let mix = |seed: u64| {
        let mut z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    [mix(2 * key + 1), mix(2 * key + 2)]
}

#[test]
fn an_unknown_key_owes_nothing() {
    assert!(Store::new(MAX_KEYS).full_at(digest(1), 5) <= 5);
}

#[test]
fn the_table_grows_without_losing_a_key_and_stops_at_its_size() {
    let mut store = Store::new(MAX_KEYS);
    for key in 0..768 {
        store.set(digest(key), 100 + key, 0);
    }
    assert!((0..768).all(|key| store.full_at(digest(key), 0) == 100 + key));
    assert!(
        store.sketch.is_none(),
        "three quarters fit before the sketch is needed"
    );
    for key in 768..100_000 {
        store.set(digest(key), 100 + key, 0);
    }
    assert_eq!(store.slots.len(), MAX_KEYS);
    assert_eq!(
        store.sketch.map(|sketch| sketch.cells.len()),
        Some(ROWS * MAX_KEYS)
    );
}

#[test]
fn few_keys_take_little_memory() {
    let mut store = Store::new(Limits::DEFAULT_KEYS_PER_LIMIT);
    (0..10_000).for_each(|now| store.set(digest(now), now + 5, now));
    assert!(
        store.slots.len() <= 64,
        "{} slots for five keys at a time",
        store.slots.len()
    );
}

#[test]
fn keys_whose_time_has_passed_make_room() {
    let mut store = Store::new(MAX_KEYS);
    (0..MAX_KEYS as u64).for_each(|key| store.set(digest(key), 10, 0));
    assert!(!store.is_idle(9));
    assert!(store.is_idle(10));
    (2000..2800).for_each(|key| store.set(digest(key), 20 + key, 10));
    assert!((2000..2800).all(|key| store.full_at(digest(key), 10) == 20 + key));
}

#[test]
fn a_known_offender_is_not_forgotten_in_a_flood() {
    let mut store = Store::new(MAX_KEYS);
    store.set(digest(1), 1_000_000, 0);
    (2..200_000).for_each(|key| store.set(digest(key), 100, 0));
    assert_eq!(store.full_at(digest(1), 0), 1_000_000);
}

#[test]
fn without_a_place_a_key_is_never_taken_for_less_than_it_owes() {
    let mut store = Store::new(MAX_KEYS);
    (0..50_000).for_each(|key| store.set(digest(key), 100 + key % 1000, 0));
    assert!((0..50_000).all(|key| store.full_at(digest(key), 0) >= 100 + key % 1000));
}

#[test]
fn converting_rewrites_debts_and_leaves_the_past_alone() {
    let mut store = Store::new(MAX_KEYS);
    (0..50_000).for_each(|key| store.set(digest(key), if key < 10 { 40 } else { 150 }, 0));
    store.convert(50, |debt| debt * 3);
    assert_eq!(store.full_at(digest(1), 50), 40);
    assert!((10..50_000).all(|key| store.full_at(digest(key), 50) == 350));
    assert!(!store.is_idle(349));
    assert!(store.is_idle(350));
}
