//! What the workload's TLS begins with: which server it asks for.
//!
//! The first byte says where the rest is cut in two; the verdict does not depend on that, nor on cutting it everywhere.
#![no_main]

use fuzz::assert_one_line;
use policy::target::host::Host;
use proxy::external::hello::{Hello, HelloError};

fuzz::target!(|input: &[u8]| {
    let Some((at, bytes)) = input.split_first() else {
        return;
    };
    let whole = read(bytes, [bytes.len()]);
    match &whole {
        Ok(Some(name)) => {
            // One spelling, no port, no address: what is listed can be compared with it.
            let host = Host::parse(name.as_bytes());
            assert_eq!(host.map(|host| host.to_string()).as_ref(), Ok(name));
            assert!(!name.starts_with('[') && name.parse::<std::net::IpAddr>().is_err());
            assert_eq!(bytes[0], 22);
        }
        Ok(None) => {}
        Err(error) => assert_one_line(error),
    }
    let at = usize::from(*at) * bytes.len() / 256;
    assert_eq!(read(bytes, [at, bytes.len()]), whole);
    assert_eq!(read(bytes, 0..=bytes.len()), whole);
});

/// The verdict when so many bytes have come at each look.
fn read(
    bytes: &[u8],
    looks: impl IntoIterator<Item = usize>,
) -> Result<Option<String>, HelloError> {
    let mut hello = Hello::new();
    for end in looks {
        if let Some(name) = hello.read(&bytes[..end])? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}
