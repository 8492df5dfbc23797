//! Rate limits.

/// One limit as compiled.
#[derive(Debug)]
pub struct LimitSpec;
