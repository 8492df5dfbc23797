//! How many sidecars a request, or an opaque connection, has come through, so that one that goes round ends: two sidecars may
//! lead to each other in ways that neither configuration shows.
//!
//! Each inbound side tells its app one more than it was told; what an app passes on, the outbound side does. Whoever lies about
//! it can end its own requests and no others. An app that passes nothing on begins a request of its own.
//!
//! Of opaque TCP the handshake between sidecars says it (ALPN, `tls.rs`), and on one machine the connection itself (`gap.rs`).

mod gap;

pub(crate) use gap::{connect, hops_of_class, hops_of_unix};

use http::HeaderValue;
use http::header::HeaderName;

pub(crate) const HOPS: HeaderName = HeaderName::from_static("tipstaff-hops");

/// Gateways that pass headers on stand in a row of two or three.
pub(crate) const MOST: u8 = 16;

/// What a request was told. Never more than [`MOST`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Hops(u8);

/// The request has come through too many sidecars: it goes round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GoesRound;

impl Hops {
    /// Takes in a field; of several the largest counts, and nonsense says nothing.
    pub(crate) fn hear(&mut self, field: &HeaderValue) -> Result<(), GoesRound> {
        let told = field.to_str().ok().and_then(|told| told.parse().ok());
        let told: u8 = told.unwrap_or_default();
        if told >= MOST {
            return Err(GoesRound);
        }
        self.0 = self.0.max(told);
        Ok(())
    }

    /// As many, and never more than tell that it goes round.
    pub(crate) fn of(count: usize) -> Self {
        Self(u8::try_from(count).map_or(MOST, |count| count.min(MOST)))
    }

    pub(crate) fn count(self) -> usize {
        self.0.into()
    }

    /// This sidecar too.
    pub(crate) fn and_this(self) -> Self {
        Self::of(self.count() + 1)
    }

    /// Whether another sidecar may be told.
    pub(crate) fn check(self) -> Result<(), GoesRound> {
        match self.0 < MOST {
            true => Ok(()),
            false => Err(GoesRound),
        }
    }

    /// What the app is told.
    pub(crate) fn one_more(self) -> HeaderValue {
        match self.0 {
            0 => HeaderValue::from_static("1"),
            told => HeaderValue::from(u16::from(told) + 1),
        }
    }

    /// What the next sidecar is told, if there is anything to tell.
    pub(crate) fn as_told(self) -> Option<HeaderValue> {
        (self.0 > 0).then(|| HeaderValue::from(u16::from(self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_field_counts_and_nonsense_says_nothing() {
        let mut hops = Hops::default();
        assert_eq!(hops.as_told(), None);
        assert_eq!(hops.one_more(), "1");
        for (field, told) in [("-1", 0), ("3", 3), ("2", 3), ("x", 3), ("", 3), ("999", 3)] {
            assert_eq!(
                hops.hear(&HeaderValue::from_static(field)),
                Ok(()),
                "{field}"
            );
            assert_eq!(hops, Hops(told), "{field}");
        }
        assert_eq!(hops.as_told().unwrap(), "3");
        assert_eq!(hops.one_more(), "4");
        for field in ["16", "255"] {
            assert_eq!(hops.hear(&HeaderValue::from_static(field)), Err(GoesRound));
        }
    }
}
