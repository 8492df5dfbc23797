//! Blocks of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// `10.0.0.0/8`, `fd00::/8`; an address alone is a block of one. Below the prefix all bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is not a block of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseCidrError {
    #[error("expected an address or a block such as 10.0.0.0/8, found {0:?}")]
    Form(String),
    #[error("expected a prefix of at most {max} bits, found {found}")]
    Prefix { max: u8, found: u8 },
    #[error("expected zeros after {prefix} bits, as in {meant}")]
    HostBits { prefix: u8, meant: IpAddr },
}

impl Cidr {
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.is_ipv4() == address.is_ipv4() && masked(address, self.prefix) == self.address
    }

    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }
}

/// `10.0.0.5:5432`, or all ports of a block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    addresses: Cidr,
    port: Option<u16>,
}

impl Range {
    /// The one address and port that it stands for.
    pub fn socket(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.addresses.address, self.port?))
    }

    pub fn contains(&self, address: SocketAddr) -> bool {
        self.addresses.contains(address.ip()) && self.port.is_none_or(|port| port == address.port())
    }
}

impl FromStr for Range {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, ParseCidrError> {
        let Ok(address) = text.parse::<SocketAddr>() else {
            let addresses = text.parse()?;
            return Ok(Self {
                addresses,
                port: None,
            });
        };
        let ip = address.ip();
        Ok(Self {
            addresses: Cidr {
                address: ip,
                prefix: if ip.is_ipv4() { 32 } else { 128 },
            },
            port: Some(address.port()),
        })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.addresses.address, port).fmt(f),
            None => self.addresses.fmt(f),
        }
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, ParseCidrError> {
        let form = || ParseCidrError::Form(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse().map_err(|_| form())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(max);
        if prefix > max {
            return Err(ParseCidrError::Prefix { max, found: prefix });
        }
        let meant = masked(address, prefix);
        if meant != address {
            return Err(ParseCidrError::HostBits { prefix, meant });
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    // A shift by the whole width is what a prefix of 0 asks for.
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_the_addresses_that_share_its_prefix() {
        for (block, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("10.1.2.3", "::ffff:10.1.2.3", "::10.1.2.3"),
            ("0.0.0.0/0", "203.0.113.9", "fd00::1"),
            ("::/0", "fd00::1", "10.0.0.1"),
            ("fd00::/64", "fd00::ffff:1", "fd00:0:0:1::1"),
            ("fd00::1", "fd00::1", "fd00::2"),
        ] {
            let cidr: Cidr = block.parse().unwrap();
            assert!(cidr.contains(inside.parse().unwrap()), "{block} {inside}");
            assert!(
                !cidr.contains(outside.parse().unwrap()),
                "{block} {outside}"
            );
        }
    }

    #[test]
    fn a_range_is_one_port_of_an_address_or_all_ports_of_a_block() {
        for (range, inside, outside) in [
            ("10.0.0.5:5432", "10.0.0.5:5432", "10.0.0.5:5433"),
            ("[fd00::5]:5432", "[fd00::5]:5432", "[fd00::6]:5432"),
            ("10.0.0.0/8", "10.9.9.9:1", "11.0.0.1:1"),
        ] {
            let parsed: Range = range.parse().unwrap();
            assert!(parsed.contains(inside.parse().unwrap()), "{range} {inside}");
            assert!(
                !parsed.contains(outside.parse().unwrap()),
                "{range} {outside}"
            );
            assert_eq!(parsed.to_string(), range);
        }
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0.1/8",
            "10.0.0.0/+8 ",
            "host/8",
            "10.0.0.0/8, 0.0.0.0/0",
            "10.0.0.0/8}\n",
            "10.0.0.0/-1",
            "10.0.0.0/256",
            "[fd00::1]",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text:?}");
        }
    }
}
