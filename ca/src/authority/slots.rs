//! When each certificate is to be renewed.

use aws_lc_rs::hmac;
use std::time::SystemTime;

/// Draws renewal times. The secret makes them unpredictable from serials alone.
#[derive(Clone)]
pub(crate) struct Slots(hmac::Key);

impl Slots {
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// A deterministic draw from the serial, uniform in 50 to 70 % of the time between issuance and expiry. A fleet
    /// that starts at once spreads out, and asking again gives the same answer.
    pub(crate) fn renew_at(
        &self,
        serial: &str,
        issued: SystemTime,
        not_after: SystemTime,
    ) -> SystemTime {
        let tag = hmac::sign(&self.0, serial.as_bytes());
        let (draw, _) = tag
            .as_ref()
            .split_first_chunk()
            .expect("a tag has 32 bytes");
        let draw = f64::from(u32::from_be_bytes(*draw)) / f64::from(u32::MAX);
        let life = not_after.duration_since(issued).unwrap_or_default();
        issued + life.mul_f64(0.5 + 0.2 * draw)
    }
}
