//! `cargo bench -p proxy --bench h1`: what reading and writing a message of HTTP/1.1 costs, its memory included.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http::{Method, StatusCode};
use proxy::h1::body::{Decoder, Step};
use proxy::h1::head::{Framing, HeadReader, Limits};
use proxy::h1::write;
use std::hint::black_box;

const LIMITS: Limits = Limits {
    head_bytes: 64 * 1024,
    fields: 100,
    field_bytes: 64 * 1024,
    http10: false,
};

const REQUEST: &[u8] = b"POST /api/v1/orders/4711?fields=id,total HTTP/1.1\r\n\
    Host: orders.shop.example:8080\r\n\
    User-Agent: python-requests/2.32.3\r\n\
    Accept: application/json\r\n\
    Content-Type: application/json\r\n\
    X-Request-Id: 7f3a2c51-9d4e-4b0a-8c7d-1e2f3a4b5c6d\r\n\
    Content-Length: 128\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: nginx/1.26.2\r\n\
    Date: Sun, 22 Nov 2026 11:21:55 GMT\r\n\
    Content-Type: application/json\r\n\
    Content-Length: 128\r\n\
    Cache-Control: no-store\r\n\r\n";

fn reading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("h1/read");
    let whole = |message: &'static [u8]| move || BytesMut::from(message);
    group.bench_function("request of 6 fields", |bencher| {
        bencher.iter_batched(
            whole(REQUEST),
            |mut input| {
                drop(black_box(
                    HeadReader::new().request(&mut input, &LIMITS).unwrap(),
                ));
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("response of 5 fields", |bencher| {
        bencher.iter_batched(
            whole(RESPONSE),
            |mut input| {
                let head = HeadReader::new().response(&mut input, &Method::GET, &LIMITS);
                drop(black_box(head.unwrap()));
            },
            BatchSize::SmallInput,
        );
    });
    // The part of it that splits the fields and nothing else.
    group.bench_function("request of 6 fields, httparse alone", |bencher| {
        bencher.iter(|| {
            let mut fields = [httparse::EMPTY_HEADER; 8];
            let mut request = httparse::Request::new(&mut fields);
            black_box(request.parse(black_box(REQUEST)).unwrap());
        });
    });
    group.finish();
}

/// Per byte these are to stay level: what was looked at is not looked at again.
fn arriving(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("h1/read byte by byte");
    for length in [1_000, 10_000, 50_000] {
        let message = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(length));
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_function(length.to_string(), |bencher| {
            bencher.iter(|| {
                let mut reader = HeadReader::new();
                let mut input = BytesMut::with_capacity(message.len());
                let mut heads = 0;
                for byte in message.bytes() {
                    input.extend_from_slice(&[byte]);
                    heads += usize::from(reader.request(&mut input, &LIMITS).unwrap().is_some());
                }
                assert_eq!(heads, 1);
            });
        });
    }
    group.finish();
}

fn bodies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("h1/chunked body");
    for (chunk, count) in [(1, 4000), (1000, 64), (16_384, 64)] {
        let data = "x".repeat(chunk);
        let body = format!("{chunk:x}\r\n{data}\r\n").repeat(count) + "0\r\n\r\n";
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("{count} of {chunk} bytes"), |bencher| {
            bencher.iter_batched(
                || BytesMut::from(body.as_str()),
                |mut input| {
                    let mut decoder = Decoder::new(Framing::Chunked, &LIMITS);
                    while let Step::Data(data) = decoder.next(&mut input).unwrap() {
                        black_box(data);
                    }
                    assert!(decoder.is_end());
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn writing(criterion: &mut Criterion) {
    let request = HeadReader::new()
        .request(&mut BytesMut::from(REQUEST), &LIMITS)
        .unwrap();
    let request = request.expect("a whole head").parts;
    let response = HeadReader::new()
        .response(&mut BytesMut::from(RESPONSE), &Method::GET, &LIMITS)
        .unwrap();
    let response = response.expect("a whole head").parts;
    let target = request.uri.to_string();
    let mut out = BytesMut::with_capacity(4096);
    let mut group = criterion.benchmark_group("h1/write");
    group.bench_function("request of 6 fields", |bencher| {
        bencher.iter(|| {
            out.clear();
            let framing = black_box(Framing::Length(128));
            write::request_head(
                &mut out,
                &request.method,
                &target,
                &request.headers,
                framing,
            );
            black_box(out.len())
        });
    });
    group.bench_function("response of 5 fields", |bencher| {
        bencher.iter(|| {
            out.clear();
            let framing = Some(black_box(Framing::Length(128)));
            write::response_head(&mut out, StatusCode::OK, &response.headers, framing, false);
            black_box(out.len())
        });
    });
    group.finish();
}

criterion_group!(benches, reading, arriving, bodies, writing);
criterion_main!(benches);
