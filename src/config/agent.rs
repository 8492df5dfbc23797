//! The configuration of `tipstaff agent`: which processes of this node get which identities.

use super::{Ca, Identity, LoadError, admin, load, workload_api};
use policy::yaml::{self, Node, Problems};
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use workload::{FederatesWith, ParseSelectorError, Selector};

/// A whole configuration of an agent, checked. The files it names have not been read.
#[derive(Debug)]
pub(crate) struct AgentConfig {
    pub(crate) workload_api: workload::Config,
    /// Loopback.
    pub(crate) admin_listen: Option<SocketAddr>,
    /// Never empty. All identities are of one trust domain; none occurs twice, and no hint does.
    pub(crate) entries: Vec<Entry>,
}

/// An identity, and the processes that are entitled to it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) identity: Identity,
    /// All of them have to hold. Never empty.
    pub(crate) selectors: Vec<Selector>,
    pub(crate) hint: String,
    pub(crate) federates_with: FederatesWith,
}

impl AgentConfig {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, or with every problem found in it.
    pub(crate) fn load(path: &Path) -> Result<Self, LoadError> {
        load(path, |map| {
            let ca = map.required("ca", Ca::read);
            let workload_api = map.required("workloadApi", workload_api::of_agent);
            let entries = map.required("entries", |node, problems| {
                Entry::read_all(node, problems, ca.as_ref())
            });
            let admin_listen = map.optional("admin", admin);
            Some(Self {
                workload_api: workload_api?,
                admin_listen,
                entries: entries?,
            })
        })
    }
}

impl Entry {
    fn read_all(node: &Node, problems: &Problems, ca: Option<&Ca>) -> Option<Vec<Self>> {
        let ids = RefCell::new(BTreeSet::new());
        let hints = RefCell::new(BTreeSet::new());
        let own = OnceCell::new();
        let entries = yaml::list(|node: &Node, problems: &Problems| {
            let entry = Self::read(node, problems, ca)?;
            let (id, hint) = (&entry.identity.id, &entry.hint);
            let own = own.get_or_init(|| id.trust_domain());
            let problem = if id.trust_domain() != *own {
                format!("expected an identity of {own}, as the first entry has, found {id}")
            } else if !ids.borrow_mut().insert(id.clone()) {
                format!("expected an identity once, found {id} again")
            } else if !hint.is_empty() && !hints.borrow_mut().insert(hint.clone()) {
                // A workload tells its identities apart by them (SPIFFE Workload API section 5.2.1).
                format!("expected a hint once, found {hint:?} again")
            } else {
                return Some(entry);
            };
            problems.push(node.problem(problem));
            None
        })(node, problems)?;
        if entries.is_empty() {
            problems.push(node.problem("expected at least one entry, found none"));
            return None;
        }
        Some(entries)
    }

    fn read(node: &Node, problems: &Problems, ca: Option<&Ca>) -> Option<Self> {
        yaml::map(node, problems, |map| {
            let identity = Identity::read_rest(map, ca.cloned());
            let selectors = map.required("selectors", selectors);
            let hint = map.optional("hint", yaml::text);
            let domain = yaml::parsed("a trust domain such as prod.example");
            let federates_with = map.optional("federatesWith", yaml::list(domain));
            Some(Self {
                identity: identity?,
                selectors: selectors?,
                hint: hint.unwrap_or_default(),
                federates_with: federates_with.map_or(FederatesWith::All, FederatesWith::Named),
            })
        })
    }
}

/// One or more: an empty list would say that nothing is required.
fn selectors(node: &Node, problems: &Problems) -> Option<Vec<Selector>> {
    let selector = |node: &Node, problems: &Problems| {
        let text = yaml::text(node, problems)?;
        text.parse()
            .map_err(|error: ParseSelectorError| problems.push(node.problem(error.to_string())))
            .ok()
    };
    let selectors = yaml::list(selector)(node, problems)?;
    if selectors.is_empty() {
        problems.push(node.problem("expected at least one selector, found none"));
        return None;
    }
    Some(selectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(entries: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.yaml");
        let mut text = "ca: {endpoint: \"https://localhost:8443\", bundle: /root.pem}\nworkloadApi: {socket: /run/api.sock}\nentries:\n".to_owned();
        for (id, hint) in entries {
            text += &format!(
                "  - {{id: \"{id}\", enrolmentKey: /key, selectors: [\"unix:uid:1\"], hint: \"{hint}\"}}\n"
            );
        }
        std::fs::write(&file, text).unwrap();
        AgentConfig::load(&file).map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn identities_are_of_one_trust_domain_and_hints_tell_them_apart() {
        let (one, two) = ("spiffe://a.test/one", "spiffe://a.test/two");
        assert_eq!(problems(&[(one, "x"), (two, "y")]), "");
        assert_eq!(problems(&[(one, ""), (two, "")]), "");
        let found = problems(&[(one, ""), ("spiffe://b.test/two", "")]);
        assert!(found.contains("expected an identity of a.test"), "{found}");
        let found = problems(&[(one, "x"), (two, "x")]);
        assert!(found.contains("expected a hint once"), "{found}");
        let found = problems(&[(one, ""), (one, "")]);
        assert!(found.contains("expected an identity once"), "{found}");
    }
}
