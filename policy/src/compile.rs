//! Documents to `Policy`.

use crate::{
    view::{Latest, Policy},
    yaml::Problem,
};

/// One file of a policy directory.
#[derive(Debug, Clone)]
pub struct Source {
    /// What problems call it: its path.
    pub name: String,
    pub text: String,
}

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
            root_namespace: "tipstaff-system".to_owned(),
            latest: Latest::default(),
        }
    }
}

/// Compiles all documents of a directory. The order of sources makes no difference to any decision.
///
/// # Errors
/// Every problem found, each with file, line, column and key path. One is enough to refuse them all: the caller keeps
/// the policy it has.
pub fn compile(sources: &[Source], options: &Options) -> Result<Policy, Vec<Problem>> {
    let _ = (sources, options);
    Ok(Policy::deny_all())
}
