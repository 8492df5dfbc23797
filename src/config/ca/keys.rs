//! `keys:`, where the CA's keys are and what opens them.

use crate::config::path;
use policy::yaml::{self, Node, Problems};
use std::path::PathBuf;

/// What opens the CA's keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Keys {
    pub(crate) passphrase: SecretSource,
    /// Keys are in this token; on disk otherwise.
    pub(crate) pkcs11: Option<Pkcs11>,
}

/// Where a passphrase or a PIN comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum SecretSource {
    /// Its environment variable, or its systemd credential.
    #[default]
    Ambient,
    /// A file; a final newline is not part of it.
    File(PathBuf),
}

/// A PKCS#11 token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pkcs11 {
    /// The vendor's library. It is loaded into the CA: whoever can write to it is the CA.
    pub(crate) module: PathBuf,
    /// The token's label.
    pub(crate) token: String,
    pub(crate) pin: SecretSource,
}

impl Keys {
    pub(super) fn read(node: &Node, problems: &Problems) -> Option<Self> {
        yaml::map(node, problems, |map| {
            let file = map.optional("passphraseFile", path);
            let pkcs11 = map.optional("pkcs11", Pkcs11::read);
            Some(Self {
                passphrase: SecretSource::of(file),
                pkcs11,
            })
        })
    }
}

impl SecretSource {
    pub(super) fn of(file: Option<PathBuf>) -> Self {
        file.map_or(Self::Ambient, Self::File)
    }
}

impl Pkcs11 {
    fn read(node: &Node, problems: &Problems) -> Option<Self> {
        yaml::map(node, problems, |map| {
            let module = map.required("module", absolute);
            let token = map.required("token", yaml::text);
            let pin = map.optional("pinFile", path);
            Some(Self {
                module: module?,
                token: token?,
                pin: SecretSource::of(pin),
            })
        })
    }
}

/// The loader would look for a bare name in places that the environment can change.
fn absolute(node: &Node, problems: &Problems) -> Option<PathBuf> {
    let module = path(node, problems)?;
    if module.is_absolute() {
        return Some(module);
    }
    problems.push(node.problem(format!(
        "expected an absolute path, found {:?}",
        module.display()
    )));
    None
}
