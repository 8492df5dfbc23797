//! Request targets.

/// How targets are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Profile;
