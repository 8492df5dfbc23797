use crate::mutations::{mutated, requests, responses};
use crate::transcript::{Side, Transcript, ours};
use proptest::prelude::*;
use std::sync::LazyLock;

static REQUESTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(requests);
static RESPONSES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(responses);

/// The same bytes, one at a time.
fn byte_by_byte(side: Side, message: &[u8]) -> Transcript {
    ours(side, message.chunks(1))
}

/// The same bytes, cut where `cuts` say, as parts of the whole.
fn cut(side: Side, message: &[u8], cuts: &[prop::sample::Index]) -> Transcript {
    let mut ends: Vec<usize> = cuts.iter().map(|c| c.index(message.len() + 1)).collect();
    ends.push(message.len());
    ends.sort_unstable();
    let mut start = 0;
    let pieces = ends.into_iter().map(|end| {
        let piece = &message[start..end];
        start = end;
        piece
    });
    ours(side, pieces)
}

#[test]
fn the_corpus_is_read_the_same_in_any_pieces() {
    for (side, messages) in [(Side::Server, &REQUESTS), (Side::Client, &RESPONSES)] {
        for message in messages.iter() {
            let whole = ours(side, [&message[..]]);
            let text = String::from_utf8_lossy(message);
            assert_eq!(byte_by_byte(side, message), whole, "{text:.300?}");
            for size in [2, 3, 7, 64, 1000] {
                assert_eq!(
                    ours(side, message.chunks(size)),
                    whole,
                    "{size}: {text:.300?}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_message_is_read_differently_in_pieces(
        number: u64,
        is_request: bool,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..8),
    ) {
        let (side, seeds) = if is_request {
            (Side::Server, &REQUESTS)
        } else {
            (Side::Client, &RESPONSES)
        };
        let message = mutated(seeds, number);
        let whole = ours(side, [&message[..]]);
        let text = String::from_utf8_lossy(&message);
        prop_assert_eq!(&byte_by_byte(side, &message), &whole, "{:?}", text);
        prop_assert_eq!(&cut(side, &message, &cuts), &whole, "{:?}", text);
    }
}
