//! The sidecar's configuration file: `identity` and `policy` are read here, the rest belongs to `proxy::Config`.
//!
//! Every problem of the file is reported in one run, with file, line and key. Relative paths are taken from the
//! working directory.

pub(crate) mod agent;
pub(crate) mod ca;
mod workload_api;

use identity::SpiffeId;
use policy::yaml::{self, Map, Problem, Problems};
use proxy::files::read_text;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A whole configuration file, checked. The files it names have not been read.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) identity: Identity,
    pub(crate) policy: PolicyFiles,
    pub(crate) proxy: proxy::Config,
    /// Where the workload gets an identity to speak TLS with itself.
    pub(crate) workload_api: Option<workload::Config>,
}

/// Who this sidecar is and where it proves that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: SpiffeId,
    pub(crate) ca: Ca,
    pub(crate) proof: Proof,
    /// The life to ask for; the CA's default when absent.
    pub(crate) ttl: Option<Duration>,
}

/// How this sidecar proves who it is when it has no certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    Enrolment {
        /// Where the key rests that proves at the next start that this is the same workload.
        key: PathBuf,
        /// Needed for the first enrolment only.
        join_token_file: Option<PathBuf>,
    },
    /// Written by the kubelet.
    ServiceAccountToken(PathBuf),
}

/// Where the CA is, and how it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ca {
    /// `https://host:port`.
    pub(crate) endpoint: String,
    /// PEM file with the roots to begin with.
    pub(crate) bundle: PathBuf,
}

/// Where the policy documents are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PolicyFiles {
    pub(crate) dir: PathBuf,
    pub(crate) root_namespace: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("cannot read the configuration {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}", problems_text(.0))]
    Problems(Vec<Problem>),
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, or with every problem found in it.
    pub(crate) fn load(path: &Path) -> Result<Self, LoadError> {
        load(path, |map| {
            let identity = map.required("identity", Identity::read);
            let policy = map.required("policy", PolicyFiles::read);
            let workload_api = map.optional("workloadApi", workload_api::of_sidecar);
            let proxy = proxy::Config::read(map);
            Some(Self {
                identity: identity?,
                policy: policy?,
                proxy: proxy?,
                workload_api,
            })
        })
    }
}

/// Whose configuration a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sidecar,
    Agent,
    Ca,
}

impl Kind {
    /// Tells by keys that no other kind has. A file without any of them, or that is no YAML, is taken for a sidecar's: what is
    /// wrong with it is said when it is read as such.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn of(path: &Path) -> Result<Self, LoadError> {
        let told = load(path, |map| {
            let mut has = |key| map.node_of(key).is_some();
            let kind = if has("identity") || has("policy") {
                Self::Sidecar
            } else if has("dir") {
                Self::Ca
            } else if has("ca") || has("entries") {
                Self::Agent
            } else {
                Self::Sidecar
            };
            let _ = map.rest();
            Some(kind)
        });
        match told {
            Err(LoadError::Problems(_)) => Ok(Self::Sidecar),
            told => told,
        }
    }
}

/// Reads a file that holds one map.
fn load<T>(path: &Path, read: impl FnOnce(&mut Map<'_>) -> Option<T>) -> Result<T, LoadError> {
    let text = read_text(path).map_err(|source| LoadError::Read {
        path: path.to_owned(),
        source,
    })?;
    let problems = Problems::new();
    let config = yaml::parse_one(&path.display().to_string(), &text, &problems)
        .and_then(|node| yaml::map(&node, &problems, read));
    problems.or_value(config).map_err(LoadError::Problems)
}

impl Identity {
    fn read(node: &yaml::Node, problems: &Problems) -> Option<Self> {
        yaml::map(node, problems, |map| {
            let ca = map.required("ca", Ca::read);
            Self::read_rest(map, ca)
        })
    }

    /// All but where the CA is, which identities of one process share.
    fn read_rest(map: &mut Map<'_>, ca: Option<Ca>) -> Option<Self> {
        let id = map.required(
            "id",
            yaml::parsed("a SPIFFE ID such as spiffe://prod.example/ns/shop/sa/orders"),
        );
        let proof = read_proof(map);
        let ttl = map.optional("ttl", yaml::duration);
        Some(Self {
            id: id?,
            ca: ca?,
            proof: proof?,
            ttl,
        })
    }
}

impl Ca {
    fn read(node: &yaml::Node, problems: &Problems) -> Option<Self> {
        yaml::map(node, problems, |map| {
            let endpoint = map.required("endpoint", yaml::text);
            let bundle = map.required("bundle", path);
            Some(Self {
                endpoint: endpoint?,
                bundle: bundle?,
            })
        })
    }
}

/// `attest` and `enrolmentKey`: a workload that brings a service-account token has no key that rests.
fn read_proof(map: &mut Map<'_>) -> Option<Proof> {
    let attest = map.optional("attest", |node, problems| {
        yaml::map(node, problems, |attest| {
            let join_token = attest.optional("joinTokenFile", path);
            let service_account = attest.optional("serviceAccountTokenFile", path);
            if join_token.is_some() && service_account.is_some() {
                problems.push(node.problem(
                    "expected one of joinTokenFile and serviceAccountTokenFile, found both",
                ));
            }
            Some((join_token, service_account))
        })
    });
    let (join_token_file, service_account) = attest.unwrap_or_default();
    match service_account {
        Some(file) => {
            map.refuse(
                "enrolmentKey",
                "not used with attest.serviceAccountTokenFile: remove it",
            );
            Some(Proof::ServiceAccountToken(file))
        }
        None => Some(Proof::Enrolment {
            key: map.required("enrolmentKey", path)?,
            join_token_file,
        }),
    }
}

impl PolicyFiles {
    /// What compiling the documents needs; `latest` starts anew, so keep the options for later reloads.
    pub(crate) fn options(&self) -> policy::Options {
        policy::Options {
            root_namespace: self.root_namespace.clone(),
            ..policy::Options::default()
        }
    }

    fn read(node: &yaml::Node, problems: &Problems) -> Option<Self> {
        yaml::map(node, problems, |map| {
            let dir = map.required("dir", path);
            let root_namespace = map.optional("rootNamespace", yaml::text);
            Some(Self {
                dir: dir?,
                root_namespace: root_namespace.unwrap_or_else(|| policy::ROOT_NAMESPACE.to_owned()),
            })
        })
    }
}

/// The section `admin` of a CA or an agent, which serve it on loopback alone.
fn admin(node: &yaml::Node, problems: &Problems) -> Option<SocketAddr> {
    yaml::map(node, problems, |map| {
        map.required("listen", |node, problems| {
            let address: SocketAddr =
                yaml::parsed("a loopback address such as 127.0.0.1:15000")(node, problems)?;
            if address.ip().is_loopback() {
                return Some(address);
            }
            problems.push(node.problem(format!("expected a loopback address, found {address}")));
            None
        })
    })
}

fn path(node: &yaml::Node, problems: &Problems) -> Option<PathBuf> {
    yaml::text(node, problems).map(PathBuf::from)
}

/// One problem a line, as compilers print them.
pub(crate) fn problems_text(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
