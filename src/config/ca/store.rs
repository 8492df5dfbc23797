//! `store:`, which database the CA writes to.

use super::keys::SecretSource;
use crate::config::path;
use policy::yaml::{self, Node, Problems};
use std::path::PathBuf;

/// The CA's database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Store {
    /// In the CA's directory.
    #[default]
    Sqlite,
    /// For several replicas.
    Postgres(Postgres),
}

/// A PostgreSQL database. Its URL has a password in it, so it is not written here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Postgres {
    pub(crate) url: SecretSource,
    pub(crate) transport: Transport,
}

/// How the CA and the database know that they talk to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Transport {
    /// TLS, with a certificate for the host of the URL by one of the authorities in this file.
    Authorities(PathBuf),
    /// A Unix socket or a loopback address.
    SameMachine,
    /// Neither.
    InsecurePlaintext,
}

impl Store {
    pub(super) fn read(node: &Node, problems: &Problems) -> Option<Self> {
        if node.is_word("sqlite") {
            return Some(Self::Sqlite);
        }
        yaml::map(node, problems, |map| {
            map.required("postgres", Postgres::read).map(Self::Postgres)
        })
    }
}

impl Postgres {
    fn read(node: &Node, problems: &Problems) -> Option<Self> {
        yaml::map(node, problems, |map| {
            let url = map.optional("urlFile", path);
            let authorities = map.optional("authorities", path);
            let plaintext = map.optional("insecurePlaintext", yaml::boolean);
            let transport = match (authorities, plaintext) {
                (Some(_), Some(true)) => {
                    map.refuse("insecurePlaintext", "`authorities` asks for TLS");
                    return None;
                }
                (Some(file), _) => Transport::Authorities(file),
                (None, Some(true)) => Transport::InsecurePlaintext,
                (None, _) => Transport::SameMachine,
            };
            Some(Self {
                url: SecretSource::of(url),
                transport,
            })
        })
    }
}
