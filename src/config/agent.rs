//! The configuration of `tipstaff agent`: which processes of this node get which identities.

use super::{Ca, Identity, LoadError, load, workload_api};
use policy::yaml::{self, Node, Problems};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use workload::{FederatesWith, ParseSelectorError, Selector};

/// A whole configuration of an agent, checked. The files it names have not been read.
#[derive(Debug)]
pub(crate) struct AgentConfig {
    pub(crate) workload_api: workload::Config,
    /// Never empty; no identity occurs twice.
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
            Some(Self {
                workload_api: workload_api?,
                entries: entries?,
            })
        })
    }
}

impl Entry {
    fn read_all(node: &Node, problems: &Problems, ca: Option<&Ca>) -> Option<Vec<Self>> {
        let ids = RefCell::new(BTreeSet::new());
        let entries = yaml::list(|node: &Node, problems: &Problems| {
            let entry = Self::read(node, problems, ca)?;
            if ids.borrow_mut().insert(entry.identity.id.clone()) {
                return Some(entry);
            }
            let id = &entry.identity.id;
            problems.push(node.problem(format!("expected an identity once, found {id} again")));
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
