//! Host and `:authority`: one reading, which reads back, and which no resolver can take for another host.
//!
//! Two values, separated by a line feed: what a Host field says and what an authority says.
#![no_main]

use fuzz::assert_one_line;
use policy::target::{
    Reject,
    host::{Host, agree},
};
use std::net::{Ipv4Addr, Ipv6Addr};

fuzz::target!(|input: &[u8]| {
    let mut values = input.splitn(2, |byte| *byte == b'\n');
    let (host, authority) = (values.next(), values.next());
    for value in [host, authority].into_iter().flatten() {
        alone(value);
    }
    together(host, authority);
});

fn alone(value: &[u8]) {
    let host = match Host::parse(value) {
        Ok(host) => host,
        Err(reject) => return assert_one_line(&reject),
    };
    let text = host.to_string();
    assert_eq!(Host::parse(text.as_bytes()).as_ref(), Ok(&host), "{text}");
    assert!(host.is_same(&host, 80));

    let name = host.name();
    let is_written = |byte: u8| !byte.is_ascii_uppercase() && byte.is_ascii_graphic();
    assert!(!name.is_empty() && name.bytes().all(is_written), "{name:?}");
    match name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
    {
        Some(address) => assert_eq!(
            address
                .parse::<Ipv6Addr>()
                .map(|a| a.to_string())
                .as_deref(),
            Ok(address)
        ),
        None => {
            assert!(
                !name.contains(['@', ':', '/', '?', '#', '%', '\\', '[', ']']),
                "{name:?}"
            );
            assert!(name.split('.').all(|label| !label.is_empty()), "{name:?}");
            assert!(
                !is_number_to_inet_aton(name) || is_dotted_quad(name),
                "{name:?}"
            );
        }
    }
    // What was sent is what was read, but for case, a final dot, and how an IPv6 address is written.
    let sent = String::from_utf8_lossy(value).to_ascii_lowercase();
    if !sent.starts_with('[') {
        let (sent, port) = sent.split_once(':').unwrap_or((&sent, ""));
        assert_eq!(sent.strip_suffix('.').unwrap_or(sent), name);
        assert_eq!(
            port,
            host.port().map(|port| port.to_string()).unwrap_or_default()
        );
    }
}

fn together(host: Option<&[u8]>, authority: Option<&[u8]>) {
    let one = agree(host, authority, 80);
    let other = agree(authority, host, 80);
    assert_eq!(one.is_ok(), other.is_ok());
    match one {
        Ok(agreed) => {
            for value in [host, authority].into_iter().flatten() {
                assert!(Host::parse(value).is_ok_and(|host| host.is_same(&agreed, 80)));
            }
        }
        Err(Reject::MissingHost) => assert_eq!((host, authority), (None, None)),
        Err(reject) => assert!(matches!(reject, Reject::BadHost | Reject::HostMismatch)),
    }
}

/// Up to four numbers, decimal, octal or hexadecimal.
fn is_number_to_inet_aton(name: &str) -> bool {
    let is_number = |part: &str| {
        let (digits, radix) = match part.strip_prefix("0x") {
            Some(digits) => (digits, 16),
            None => (part, 10),
        };
        digits.chars().all(|digit| digit.is_digit(radix))
    };
    name.split('.').count() <= 4 && name.split('.').all(is_number)
}

fn is_dotted_quad(name: &str) -> bool {
    name.parse::<Ipv4Addr>()
        .is_ok_and(|address| address.to_string() == name)
}
