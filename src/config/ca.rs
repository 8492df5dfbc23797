//! The CA's configuration file, one section a file below this one.
//!
//! Read as the sidecar's is: unknown keys are errors, every problem is reported in one run, and relative paths are taken
//! from the working directory. The values go to the `ca` crate, which reads no YAML.

mod attest;
mod audit;
pub(crate) mod entries;
mod federation;
mod jwt;
mod keys;
mod limits;
mod rotation;
mod store;

pub(crate) use keys::{Keys, SecretSource};
pub(crate) use store::{Postgres, Store, Transport};

use super::{LoadError, admin, load, path};
use ca::config::TtlFloor;
use ca::dns::{DnsName, MAX_DNS_NAMES};
use ca::federation::EndpointOptions;
use identity::SpiffeId;
use policy::yaml::{self, Map, Node, Problems};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where the CA serves unless told otherwise: this machine alone, until somebody says who else may come.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8443);

/// Administrators are people and programs with a name, not a fleet.
const MAX_ADMINISTRATORS: usize = 256;

/// A whole configuration of a CA, checked. The files it names have not been read.
#[derive(Debug)]
pub(crate) struct CaConfig {
    pub(crate) dir: PathBuf,
    pub(crate) listen: SocketAddr,
    /// Of the certificate that is served there, beside its SPIFFE ID.
    pub(crate) server_names: BTreeSet<DnsName>,
    /// Loopback.
    pub(crate) admin_listen: Option<SocketAddr>,
    /// Plain HTTP, at `/crl`.
    pub(crate) crl_listen: Option<SocketAddr>,
    pub(crate) ttl_floor: TtlFloor,
    pub(crate) keys: Keys,
    pub(crate) store: Store,
    /// Who is believed about who a caller is, besides enrolment keys.
    pub(crate) attest: ca::attest::Options,
    /// Where files of entries are, besides those of the store.
    pub(crate) entries: Option<PathBuf>,
    /// Who may change the entries of the store over the network. Empty: nobody.
    pub(crate) administrators: BTreeSet<SpiffeId>,
    /// Whether and how tokens are issued.
    pub(crate) jwt: Option<ca::jwt::Options>,
    /// When the CA's own certificates are replaced.
    pub(crate) rotation: ca::rotation::Options,
    /// Where our bundle is served under a host name.
    pub(crate) bundle_endpoint: Option<EndpointOptions>,
    /// Other trust domains whose bundles are fetched.
    pub(crate) federation: Vec<ca::federation::Options>,
    /// How much the CA is asked for at most.
    pub(crate) limits: ca::server::Options,
    /// Where old audit records go while the CA serves.
    pub(crate) archive: Option<ca::ledger::ArchiveOptions>,
}

impl CaConfig {
    /// What a CA in `dir` has without a file.
    pub(crate) fn of_dir(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            listen: DEFAULT_LISTEN,
            server_names: BTreeSet::new(),
            admin_listen: None,
            crl_listen: None,
            ttl_floor: TtlFloor::Standard,
            keys: Keys::default(),
            store: Store::default(),
            attest: ca::attest::Options::default(),
            entries: None,
            administrators: BTreeSet::new(),
            jwt: None,
            rotation: ca::rotation::Options::default(),
            bundle_endpoint: None,
            federation: Vec::new(),
            limits: ca::server::Options::default(),
            archive: None,
        }
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, or with every problem found in it.
    pub(crate) fn load(path: &Path) -> Result<Self, LoadError> {
        load(path, Self::read)
    }

    fn read(map: &mut Map<'_>) -> Option<Self> {
        let dir = map.required("dir", path);
        let listen = map.optional("listen", yaml::parsed("an address such as 0.0.0.0:8443"));
        let server_names = map.optional("serverNames", read_server_names);
        let admin_listen = map.optional("admin", admin);
        let crl_listen = map.optional("crl", read_crl);
        let short = map.optional("allowShortTtlForTests", yaml::boolean);
        let keys = map.optional("keys", Keys::read);
        let store = map.optional("store", Store::read);
        let attest = map.optional("attest", attest::read);
        let entries = map.optional("entries", entries::read_section);
        let administrators = map.optional("administrators", read_administrators);
        let jwt = map.optional("jwt", jwt::read);
        let rotation = map.optional("rotation", rotation::read);
        let bundle_endpoint = map.optional("bundleEndpoint", federation::read_endpoint);
        let federation = map.optional("federation", federation::read);
        let limits = map.optional("limits", limits::read);
        let archive = map.optional("audit", audit::read);
        Some(Self {
            dir: dir?,
            listen: listen.unwrap_or(DEFAULT_LISTEN),
            server_names: server_names.unwrap_or_default(),
            admin_listen,
            crl_listen,
            ttl_floor: match short {
                Some(true) => TtlFloor::AllowShortTtlForTests,
                Some(false) | None => TtlFloor::Standard,
            },
            keys: keys.unwrap_or_default(),
            store: store.unwrap_or_default(),
            attest: attest.unwrap_or_default(),
            entries,
            administrators: administrators.unwrap_or_default(),
            jwt,
            rotation: rotation.unwrap_or_default(),
            bundle_endpoint,
            federation: federation.unwrap_or_default(),
            limits: limits.unwrap_or_default(),
            archive,
        })
    }
}

fn read_server_names(node: &Node, problems: &Problems) -> Option<BTreeSet<DnsName>> {
    let listed: Vec<_> =
        yaml::list(yaml::parsed("a host name such as ca.example.org"))(node, problems)?;
    if listed.len() > MAX_DNS_NAMES {
        problems.push(node.problem(format!(
            "expected at most {MAX_DNS_NAMES} host names, found {}",
            listed.len()
        )));
        return None;
    }
    Some(listed.into_iter().collect())
}

fn read_crl(node: &Node, problems: &Problems) -> Option<SocketAddr> {
    let address = yaml::parsed("an address such as 0.0.0.0:8080");
    yaml::map(node, problems, |map| map.required("listen", address))
}

fn read_administrators(node: &Node, problems: &Problems) -> Option<BTreeSet<SpiffeId>> {
    let id = yaml::parsed("a SPIFFE ID such as spiffe://prod.example/ns/ops/sa/alice");
    let listed: Vec<SpiffeId> = yaml::list(id)(node, problems)?;
    if listed.len() > MAX_ADMINISTRATORS {
        problems.push(node.problem(format!(
            "expected at most {MAX_ADMINISTRATORS} administrators, found {}",
            listed.len()
        )));
        return None;
    }
    Some(listed.into_iter().collect())
}

#[cfg(test)]
mod tests;
