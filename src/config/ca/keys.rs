//! `keys:`, where the CA's keys are and what opens them.

use crate::config::path;
use policy::yaml::{self, Node, Problems};
use std::path::PathBuf;

/// What opens the CA's keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Keys {
    pub(crate) passphrase: PassphraseSource,
}

/// Where the passphrase of keys on disk comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum PassphraseSource {
    /// The variable TIPSTAFF_CA_PASSPHRASE, if it is set.
    #[default]
    Environment,
    /// A file; a final newline is not part of it.
    File(PathBuf),
}

impl Keys {
    pub(super) fn read(node: &Node, problems: &Problems) -> Option<Self> {
        yaml::map(node, problems, |map| {
            let file = map.optional("passphraseFile", path);
            Some(Self {
                passphrase: file.map_or(PassphraseSource::Environment, PassphraseSource::File),
            })
        })
    }
}
