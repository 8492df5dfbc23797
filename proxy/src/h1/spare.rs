//! Maps of header fields that were used and are used again: one for a usual head is larger than what the allocator has at
//! hand. On each hop one head is read here and another, read by HTTP/2, ends here, so that few are ever made.

use http::HeaderMap;
use std::cell::RefCell;

/// Kept by each thread; more heads than this are seldom between their reading and their writing.
const MOST: usize = 32;
/// A map with room for more fields than this is not kept: few heads are as large, but they may come all at once.
const LARGEST: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// An empty map with room for `fields`; `None` if no map has as much.
pub(super) fn take(fields: usize) -> Option<HeaderMap> {
    let spare = SPARE.with_borrow_mut(Vec::pop);
    match spare {
        Some(map) if map.capacity() >= fields => Some(map),
        _ => HeaderMap::try_with_capacity(fields).ok(),
    }
}

/// Keeps a map that is done with, empty.
pub(crate) fn keep(mut map: HeaderMap) {
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < MOST && (1..=LARGEST).contains(&map.capacity()) {
            map.clear();
            spare.push(map);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::HOST;

    #[test]
    fn a_map_comes_back_empty_and_with_room() {
        let mut map = HeaderMap::with_capacity(40);
        map.insert(HOST, HeaderValue::from_static("a.example"));
        keep(map);
        let map = take(10).unwrap();
        assert!(map.is_empty() && map.capacity() >= 40);
        keep(map);
        assert!(
            take(60).unwrap().capacity() >= 60,
            "too small a one is no use"
        );
    }

    #[test]
    fn neither_large_maps_nor_many_are_kept() {
        keep(HeaderMap::with_capacity(1000));
        for _ in 0..2 * MOST {
            keep(HeaderMap::with_capacity(8));
        }
        assert_eq!(SPARE.with_borrow(Vec::len), MOST);
        assert!(SPARE.with_borrow(|spare| spare.iter().all(|map| map.capacity() <= LARGEST)));
    }
}
