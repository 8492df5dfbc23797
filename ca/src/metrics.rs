//! The CA's counters, and their Prometheus text.

/// What the CA counts.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// All counters in the Prometheus text format.
    pub fn render(&self) -> String {
        String::new()
    }
}
