use super::*;
use proptest::prelude::*;

/// What grpcio 1.85 sends, up to its first request.
fn of_grpcio() -> Vec<u8> {
    let fields = [
        b"\x83\x86@\x05:path\x20/SpiffeWorkloadAPI/FetchX509SVID@\x0a:authority\x1atmp%2Fwt%2Fe2e%2Fdump.sock".as_slice(),
        b"@\x0ccontent-type\x10application/grpc@\x02te\x08trailers\x00\x12workload.spiffe.io\x04true",
    ]
    .concat();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00");
    bytes.extend(frame(HEADERS, 0x4, &fields));
    bytes.extend(b"\x00\x00\x05\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00");
    bytes
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags, 0, 0, 0, 1]);
    bytes.extend(payload);
    bytes
}

/// The bytes after they were read in pieces of `size`.
fn read(bytes: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut reader = Reader::default();
    bytes.chunks_mut(size).for_each(|piece| reader.read(piece));
    bytes
}

fn preface() -> Vec<u8> {
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()
}

#[test]
fn the_authority_of_grpcio_becomes_one_and_nothing_else_changes() {
    let text = String::from_utf8_lossy(&of_grpcio()).into_owned();
    let expected = text.replace("tmp%2Fwt%2Fe2e%2F", "tmp-2Fwt-2Fe2e-2F");
    assert_ne!(text, expected);
    for size in 1..of_grpcio().len() {
        let found = read(&of_grpcio(), size);
        assert_eq!(String::from_utf8_lossy(&found), expected, "{size}");
    }
}

#[test]
fn authorities_are_found_wherever_they_may_be() {
    // Padding, priority, a frame that goes on, and the name from the static table.
    let padded = [b"\x03".as_slice(), &[9; 5], b"\x41\x03a%b", b"%%%"].concat();
    let indexed = b"\x01\x03a%b\x11\x03c%d".as_slice();
    for (frames, expected) in [
        (frame(HEADERS, 0x4 | PADDED | PRIORITY, &padded), "a-b"),
        (frame(HEADERS, 0x4, indexed), "a-b"),
        (
            [
                frame(HEADERS, 0, b"\x41\x03a"),
                frame(CONTINUATION, 4, b"%b"),
            ]
            .concat(),
            "-b",
        ),
    ] {
        let whole = [preface(), frames.clone()].concat();
        let found = read(&whole, whole.len());
        let found = String::from_utf8_lossy(&found);
        assert!(found.contains(expected), "{found:?}");
    }
    // Not in padding, in other fields, in data, or in what is Huffman-coded.
    let others = [
        frame(HEADERS, 0x4 | PADDED, b"\x03\x44\x03a%b%%%"),
        frame(0, 0, b"\x41\x03a%b"),
        frame(
            HEADERS,
            0x4,
            b"\x41\x83a%b\x7f\x00\x03a%b\x00\x0a:Authority\x03a%b",
        ),
    ]
    .concat();
    let whole = [preface(), others].concat();
    assert_eq!(read(&whole, whole.len()), whole);
}

proptest! {
    #[test]
    fn any_bytes_pass_with_their_length_and_alike_in_any_pieces(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        size in 1_usize..40,
    ) {
        let whole = [preface(), bytes].concat();
        let found = read(&whole, whole.len());
        prop_assert_eq!(&read(&whole, size), &found);
        for (before, after) in whole.iter().zip(&found) {
            prop_assert!(before == after || (*before, *after) == (b'%', b'-'));
        }
    }
}
