//! `store:`, which database the CA writes to.

use policy::yaml::{self, Node, Problems};

/// The CA's database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Store {
    /// In the CA's directory.
    #[default]
    Sqlite,
}

impl Store {
    pub(super) fn read(node: &Node, problems: &Problems) -> Option<Self> {
        yaml::word(&[("sqlite", Self::Sqlite)])(node, problems)
    }
}
