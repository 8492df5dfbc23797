//! Documents to `Policy`: what has to be right between documents, and what concerns whom.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use identity::SpiffeId;

use crate::{
    document::{self, Document, Grant, Guard, Scope, ScopedProfile, SharedLimit, TestFile},
    pattern::IdPattern,
    profile::HttpProfile,
    view::{Caller, Latest, Policy, Selection},
    yaml::{self, Place, Problem, Problems},
};

/// One file of a policy directory.
#[derive(Debug, Clone)]
pub struct Source {
    /// What problems call it: its path.
    pub name: String,
    pub text: String,
}

/// The root namespace, unless the configuration names another.
pub const ROOT_NAMESPACE: &str = "tipstaff-system";

/// What compiling needs besides the documents.
#[derive(Debug, Clone)]
pub struct Options {
    /// The namespace whose documents may speak for all others.
    pub root_namespace: String,
    /// Pass the same one at every reload.
    pub latest: Latest,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            root_namespace: ROOT_NAMESPACE.to_owned(),
            latest: Latest::default(),
        }
    }
}

/// Compiles all documents of a directory. The order of sources makes no difference to any decision.
///
/// # Errors
/// Every problem found, each with file, line, column and key path. One is enough to refuse them all: the caller keeps
/// the policy it has.
///
/// ```
/// let source = policy::Source { name: "a.yaml".into(), text: "kind: Grnat".into() };
/// let problems = policy::compile(&[source], &policy::Options::default()).unwrap_err();
/// assert_eq!(
///     problems.last().unwrap().to_string(),
///     "a.yaml:1:7: kind: expected one of Grant, Guard, Limit, HttpProfile, Test, found \"Grnat\""
/// );
/// ```
pub fn compile(sources: &[Source], options: &Options) -> Result<Policy, Vec<Problem>> {
    let problems = Problems::new();
    let mut rules = Rules {
        fingerprint: fingerprint(sources),
        ..Rules::default()
    };
    let mut names = HashMap::new();
    for source in sources {
        for node in yaml::parse(&source.name, &source.text, &problems) {
            if let Some(document) = document::read(&node, &options.root_namespace, &problems) {
                check_name(&document, &mut names, &problems);
                rules.add(document);
            }
        }
    }
    no_limit_twice(&rules, &problems);
    one_reading(&rules.profiles, &problems);
    // Which of two equal patterns names a decision must not depend on the order of files.
    rules.grants.sort_by(|a, b| a.name.cmp(&b.name));
    rules.guards.sort_by(|a, b| a.name.cmp(&b.name));
    rules.limits.sort_by(|a, b| a.name.cmp(&b.name));
    problems
        .or_value(Some(rules))
        .map(|rules| Policy::new(rules, options.latest.clone()))
}

/// All documents of a policy.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) fingerprint: String,
    pub(crate) grants: Vec<Grant>,
    pub(crate) guards: Vec<Guard>,
    pub(crate) limits: Vec<SharedLimit>,
    pub(crate) profiles: Vec<ScopedProfile>,
    /// What holds without a document.
    pub(crate) strict: HttpProfile,
    pub(crate) tests: Vec<TestFile>,
}

impl Rules {
    fn add(&mut self, document: Document) {
        match document {
            Document::Grant(grant) => self.grants.push(grant),
            Document::Guard(guard) => self.guards.push(guard),
            Document::Limit(limit) => self.limits.push(limit),
            Document::HttpProfile(profile) => self.profiles.push(profile),
            Document::Test(tests) => self.tests.push(tests),
        }
    }

    /// The documents that concern a caller, callee and port.
    pub(crate) fn select(&self, caller: Caller<'_>, callee: &SpiffeId, port: u16) -> Selection {
        let is_one_of =
            |patterns: &[IdPattern]| patterns.iter().any(|pattern| pattern.matches(caller));
        let reaches = |scope: &Scope| scope.reaches(callee, port);
        Selection {
            grants: indices(&self.grants, |grant| {
                is_one_of(&grant.from) && reaches(&grant.scope)
            }),
            guards: indices(&self.guards, |guard| {
                reaches(&guard.scope) && !is_one_of(&guard.except)
            }),
            limits: indices(&self.limits, |limit| reaches(&limit.scope)),
            profile: self.profile_of(callee, port),
        }
    }

    /// Of several documents any will do: compiling has seen to it that they say the same.
    pub(crate) fn profile_of(&self, callee: &SpiffeId, port: u16) -> Option<u32> {
        let mut numbered = (0..).zip(&self.profiles);
        let found = numbered.find(|(_, profile)| profile.scope.reaches(callee, port));
        found.map(|(index, _)| index)
    }

    pub(crate) fn profile(&self, index: Option<u32>) -> &HttpProfile {
        index.map_or(&self.strict, |index| &self.profiles[index as usize].profile)
    }
}

fn indices<T>(documents: &[T], concerns: impl Fn(&T) -> bool) -> Vec<u32> {
    let numbered = (0..).zip(documents);
    numbered
        .filter(|(_, document)| concerns(document))
        .map(|(index, _)| index)
        .collect()
}

/// Does not depend on the order of sources. Not a security boundary, so a fast hash will do.
fn fingerprint(sources: &[Source]) -> String {
    let mut sources: Vec<_> = sources
        .iter()
        .map(|source| (&source.name, &source.text))
        .collect();
    sources.sort();
    let mut hasher = DefaultHasher::new();
    sources.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Within a kind, a name stands for one document.
fn check_name(
    document: &Document,
    names: &mut HashMap<(&'static str, String), Place>,
    problems: &Problems,
) {
    let (kind, name, place) = match document {
        Document::Grant(d) => ("Grant", &d.name, &d.place),
        Document::Guard(d) => ("Guard", &d.name, &d.place),
        Document::Limit(d) => ("Limit", &d.name, &d.place),
        Document::HttpProfile(d) => ("HttpProfile", &d.name, &d.place),
        Document::Test(d) => ("Test", &d.name, &d.place),
    };
    if let Some(first) = names.insert((kind, name.clone()), place.clone()) {
        let (file, line) = (first.file(), first.line());
        problems.push(place.problem(format!(
            "there is a {kind} {name} already, at {file}:{line}"
        )));
    }
}

/// A limit's state is kept by `namespace/document/limit`: a Grant and a Limit of one name would share it.
fn no_limit_twice(rules: &Rules, problems: &Problems) {
    let mut seen: HashMap<&str, &str> = HashMap::new();
    for limit in rules.grants.iter().flat_map(|grant| &grant.limits) {
        seen.insert(limit.id(), "Grant");
    }
    for document in &rules.limits {
        for limit in document
            .limits
            .iter()
            .filter(|limit| seen.contains_key(limit.id()))
        {
            problems.push(document.place.problem(format!(
                "a Grant of this name has a limit {} too",
                limit.id()
            )));
        }
    }
}

/// Two readings of one request are what request smuggling is made of.
fn one_reading(profiles: &[ScopedProfile], problems: &Problems) {
    for (index, profile) in profiles.iter().enumerate() {
        let differs = |other: &&ScopedProfile| {
            other.profile != profile.profile && other.scope.overlaps(&profile.scope)
        };
        if let Some(other) = profiles[..index].iter().find(differs) {
            let (name, other) = (&profile.name, &other.name);
            problems.push(profile.place.problem(format!(
                "HttpProfiles {other} and {name} differ and reach the same callee and port; one document says it all"
            )));
        }
    }
}
