use crate::mutations::{requests, responses};
use crate::transcript::{Side, Transcript, ours};
use std::sync::LazyLock;

static REQUESTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(requests);
static RESPONSES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(responses);

/// The same bytes, one at a time.
fn byte_by_byte(side: Side, message: &[u8]) -> Transcript {
    ours(side, message.chunks(1))
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
