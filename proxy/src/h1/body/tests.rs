use super::{BodyError, Decoder, MAX_EXCESS_BYTES, Step};
use crate::h1::head::{Framing, HeadError, Limits};
use bytes::BytesMut;
use http::HeaderMap;

const LIMITS: Limits = Limits {
    head_bytes: 1024,
    fields: 4,
    field_bytes: 256,
    http10: false,
};

/// The data, the trailers and what is left of `input`.
type Body = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

/// Everything up to the end of the body, to an error, or to where more bytes are needed.
fn decode(framing: Framing, input: impl AsRef<[u8]>) -> Result<Option<Body>, BodyError> {
    let mut input = BytesMut::from(input.as_ref());
    let mut decoder = Decoder::new(framing, &LIMITS);
    let (mut data, mut fields) = (Vec::new(), None);
    loop {
        match decoder.next(&mut input)? {
            Step::More => return Ok(None),
            Step::Data(bytes) => {
                assert!(!bytes.is_empty());
                data.extend_from_slice(&bytes);
            }
            Step::Trailers(trailers) => fields = Some(trailers),
            Step::End => return Ok(Some((data, fields, input.to_vec()))),
        }
    }
}

#[test]
fn chunks_that_two_servers_could_read_differently_are_refused() {
    use BodyError::{ChunkEnd, ChunkExtension, ChunkLine, ChunkSize, Trailers};
    for (body, expected) in [
        (&b"\r\n"[..], ChunkSize),
        (b"-5\r\n", ChunkSize),
        (b"+5\r\n", ChunkSize),
        (b"0x5\r\n", ChunkSize),
        (b"5h\r\n", ChunkSize),
        (b"5_0\r\n", ChunkSize),
        (b" 5\r\n", ChunkSize),
        (b"5 \r\n", ChunkSize),
        (b"5 ;a\r\n", ChunkSize),
        (b"\t5\r\n", ChunkSize),
        (b";a\r\n", ChunkSize),
        (b"5,5\r\n", ChunkSize),
        (b"00000000000000005\r\n", ChunkSize),
        (b"10000000000000000\r\n", ChunkSize),
        (b"5;a\0\r\n", ChunkExtension),
        (b"5;a\x0B\r\n", ChunkExtension),
        (b"5;a=\xE9\r\n", ChunkExtension),
        (b"5;a\x7F\r\n", ChunkExtension),
        (&[&b"5;"[..], &[b'a'; 255]].concat(), ChunkExtension),
        (b"5\nhello\r\n0\r\n\r\n", ChunkLine),
        (b"2;\nxx\r\n45\r\n0\r\n", ChunkLine),
        (b"5;a\rX\r\nhello\r\n", ChunkLine),
        (b"\n", ChunkLine),
        (b"100000005\r\nhello", ChunkSize),
        (b"000000005\r\nhello", ChunkSize),
        (b"5\r\r\n", ChunkLine),
        (b"5\r\nhello\n0\r\n\r\n", ChunkEnd),
        (b"5\r\nhello0\r\n\r\n", ChunkEnd),
        (b"5\r\nhello!\r\n0\r\n\r\n", ChunkEnd),
        (b"5\r\nhello\r0\r\n\r\n", ChunkEnd),
        (b"0\r\n\n", Trailers(HeadError::BareLf)),
        (b"0\r\n\r\r", Trailers(HeadError::BareCr)),
        (b"0\r\na: b\n\r\n", Trailers(HeadError::BareLf)),
        (b"0\r\n a: b\r\n\r\n", Trailers(HeadError::Fold)),
        (b"0\r\na: b\r\n c\r\n\r\n", Trailers(HeadError::Fold)),
        (b"0\r\na : b\r\n\r\n", Trailers(HeadError::FieldName)),
        (
            b"0\r\nGET / HTTP/1.1\r\n\r\n",
            Trailers(HeadError::FieldName),
        ),
        (b"0\r\na: \0\r\n\r\n", Trailers(HeadError::FieldValue)),
        (
            b"0\r\nContent-Length: 5\r\n\r\n",
            Trailers(HeadError::Framing),
        ),
        (
            b"0\r\ntransfer-encoding: chunked\r\n\r\n",
            Trailers(HeadError::Framing),
        ),
        (
            b"0\r\na:\r\nb:\r\nc:\r\nd:\r\ne",
            Trailers(HeadError::TooManyFields),
        ),
        (
            &[&b"0\r\na:"[..], &[b'b'; 255]].concat(),
            Trailers(HeadError::FieldTooLong),
        ),
    ] {
        let text = String::from_utf8_lossy(body);
        assert_eq!(
            decode(Framing::Chunked, body).err(),
            Some(expected),
            "{text:?}"
        );
    }
}

#[test]
fn chunks_become_their_data() {
    for (body, expected) in [
        (&b"0\r\n\r\nrest"[..], &b""[..]),
        (b"5\r\nhello\r\n0\r\n\r\nrest", b"hello"),
        (
            b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\nrest",
            b"01234567890123456789",
        ),
        (b"00000005\r\nhello\r\n00000000\r\n\r\nrest", b"hello"),
        (b"5;a;b=c;d=\"e f\"\t\r\nhello\r\n0;x\r\n\r\nrest", b"hello"),
        (b"2\r\n\r\n\r\n0\r\n\r\nrest", b"\r\n"),
    ] {
        let (data, trailers, rest) = decode(Framing::Chunked, body).unwrap().unwrap();
        let text = String::from_utf8_lossy(body);
        assert_eq!(data, expected, "{text:?}");
        assert_eq!((trailers, rest), (None, b"rest".to_vec()), "{text:?}");
    }
}

#[test]
fn trailers_come_after_the_data() {
    let body = "1\r\nx\r\n0\r\nA: b\r\nGrpc-Status:0\r\n\r\nrest";
    let (data, trailers, rest) = decode(Framing::Chunked, body).unwrap().unwrap();
    let trailers = trailers.unwrap();
    assert_eq!(data, b"x");
    assert_eq!((trailers.len(), rest.as_slice()), (2, &b"rest"[..]));
    assert_eq!(trailers["a"], "b");
    assert_eq!(trailers["grpc-status"], "0");
}

#[test]
fn a_chunk_is_given_out_as_it_comes() {
    let mut decoder = Decoder::new(Framing::Chunked, &LIMITS);
    let mut input = BytesMut::from("ffffffff\r\nab");
    let bytes = input.as_ptr_range();
    let step = decoder.next(&mut input).unwrap();
    let Step::Data(data) = step else {
        panic!("expected data, found {step:?}")
    };
    assert_eq!(data, "ab");
    assert!(bytes.contains(&data.as_ptr()), "a copy");
    assert!(matches!(decoder.next(&mut input), Ok(Step::More)));
    assert_eq!((decoder.is_end(), decoder.remaining()), (false, None));
}

#[test]
fn small_chunks_pass_and_chunks_of_nothing_but_extensions_do_not() {
    let small = "1\r\nx\r\n".repeat(4000) + "0\r\n\r\n";
    let (data, ..) = decode(Framing::Chunked, small).unwrap().unwrap();
    assert_eq!(data.len(), 4000);
    let padded = format!("1;{}\r\nx\r\n", "a".repeat(200));
    let excess_of_each = 202 + 4 - 18;
    let chunks = usize::try_from(MAX_EXCESS_BYTES).unwrap() / excess_of_each;
    let bounded = padded.repeat(chunks) + "0\r\n\r\n";
    assert!(decode(Framing::Chunked, bounded).unwrap().is_some());
    let unbounded = padded.repeat(chunks + 1);
    assert_eq!(
        decode(Framing::Chunked, unbounded),
        Err(BodyError::ChunkOverhead)
    );
}

#[test]
fn a_length_ends_where_it_says() {
    let mut decoder = Decoder::new(Framing::Length(5), &LIMITS);
    let mut input = BytesMut::from("hel");
    assert!(matches!(decoder.next(&mut input), Ok(Step::Data(data)) if data == "hel"));
    assert!(matches!(decoder.next(&mut input), Ok(Step::More)));
    assert_eq!((decoder.is_end(), decoder.remaining()), (false, Some(2)));
    input.extend_from_slice(b"lorest");
    assert!(matches!(decoder.next(&mut input), Ok(Step::Data(data)) if data == "lo"));
    assert_eq!((decoder.is_end(), decoder.remaining()), (true, Some(0)));
    assert!(matches!(decoder.next(&mut input), Ok(Step::End)));
    assert_eq!(&input[..], b"rest");
    for framing in [Framing::Empty, Framing::Length(0)] {
        assert!(Decoder::new(framing, &LIMITS).is_end(), "{framing:?}");
        let nothing = (Vec::new(), None, b"rest".to_vec());
        assert_eq!(decode(framing, "rest"), Ok(Some(nothing)));
    }
}

#[test]
fn the_end_of_the_connection_is_the_end_of_a_body_only_where_nothing_else_is() {
    for (framing, input, expected) in [
        (Framing::Empty, "", Ok(())),
        (Framing::Length(2), "ab", Ok(())),
        (Framing::Length(3), "ab", Err(BodyError::Incomplete)),
        (Framing::Chunked, "0\r\n\r\n", Ok(())),
        (Framing::Chunked, "0\r\n\r", Err(BodyError::Incomplete)),
        (Framing::Chunked, "0\r\n", Err(BodyError::Incomplete)),
        (Framing::Chunked, "2\r\nab\r\n", Err(BodyError::Incomplete)),
        (Framing::Chunked, "", Err(BodyError::Incomplete)),
        (Framing::UntilClose, "", Ok(())),
        (Framing::UntilClose, "ab", Ok(())),
    ] {
        let mut decoder = Decoder::new(framing, &LIMITS);
        let mut bytes = BytesMut::from(input);
        while let Step::Data(_) = decoder.next(&mut bytes).unwrap() {}
        assert_eq!(decoder.eof(), expected, "{framing:?} {input:?}");
        assert_eq!(decoder.is_end(), expected.is_ok(), "{framing:?} {input:?}");
    }
}
