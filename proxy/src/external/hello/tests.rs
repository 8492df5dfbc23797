use super::*;
use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::sync::Arc;

/// What a client that asks for `name` says first.
fn hello(name: &'static str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The verdict when bytes come in pieces of `size`.
fn read(bytes: &[u8], size: usize) -> Result<Option<String>, HelloError> {
    let mut hello = Hello::new();
    for end in (size..bytes.len() + size).step_by(size) {
        if let Some(name) = hello.read(&bytes[..end.min(bytes.len())])? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The same handshake message in records of `size`.
fn fragmented(hello: &[u8], size: usize) -> Vec<u8> {
    let records = hello[5..].chunks(size).map(|piece| {
        let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
        [&hello[..3], &length, piece].concat()
    });
    records.collect::<Vec<_>>().concat()
}

#[test]
fn a_hello_names_its_server_however_it_is_cut() {
    let plain = hello("Api.Example.com");
    let mut early = plain.clone();
    early.extend([23, 3, 3, 0, 4, 1, 2, 3, 4]);
    for bytes in [
        &plain,
        &early,
        &fragmented(&plain, 100),
        &fragmented(&plain, 1),
    ] {
        for size in [1, 2, 7, 100, bytes.len()] {
            let read = read(bytes, size);
            assert_eq!(read, Ok(Some("api.example.com".to_owned())), "{size}");
        }
    }
    // Not before it is whole.
    assert_eq!(read(&plain[..plain.len() - 1], 1), Ok(None));
}

#[test]
fn what_names_no_server_is_refused() {
    for size in [1, 100, 20_000] {
        assert_eq!(read(&hello("192.0.2.1"), size), Err(HelloError::NoName));
    }
}

#[test]
fn what_is_no_hello_is_refused() {
    let good = hello("api.example.com");
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"\x16\x16\x16\x16\x16\x16\x16\x16".to_vec(),
        // An alert, a ServerHello, a record without content, a major version that was never there.
        vec![21, 3, 1, 0, 2, 1, 0],
        changed(5, 2),
        vec![22, 3, 1, 0, 0],
        changed(1, 9),
        // A handshake message that goes on for ever.
        changed(6, 255),
    ] {
        for size in [1, 20_000] {
            let read = read(&bytes, size);
            assert!(!matches!(read, Ok(Some(_))), "{size} {bytes:?}: {read:?}");
        }
    }
}

#[test]
fn a_hello_that_never_ends_is_given_up() {
    // Records of 1000 bytes of a message of 60000.
    let mut bytes = vec![1, 0, 234, 96];
    bytes.resize(60_000, 0);
    let endless = fragmented(&[&[22, 3, 1, 0, 0][..], &bytes].concat(), 1000);
    for size in [1, 1000, endless.len()] {
        assert_eq!(read(&endless, size), Err(HelloError::TooLong), "{size}");
    }
}

proptest! {
    /// A hello that somebody has worked on: what is made of it is the same however it is cut.
    #[test]
    fn the_verdict_does_not_depend_on_how_bytes_arrive(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        record in 1_usize..2000,
        size in 1_usize..500,
    ) {
        let mut bytes = fragmented(&hello("api.example.com"), record);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let whole = read(&bytes, bytes.len());
        for size in [size, 1] {
            prop_assert_eq!(&read(&bytes, size), &whole);
        }
    }
}
