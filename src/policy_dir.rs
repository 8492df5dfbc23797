//! A directory of policy documents, from disk to a compiled policy. (The policy crate does no I/O.)

use crate::config::problems_text;
use policy::yaml::Problem;
use policy::{Options, Policy, Source};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Why a directory did not become a policy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}", problems_text(.0))]
    Problems(Vec<Problem>),
}

/// Compiles the documents of `dir`.
///
/// # Errors
/// When a file cannot be read, or with every problem found in them.
pub(crate) fn load(dir: &Path, root_namespace: &str) -> Result<Policy, LoadError> {
    let sources = read(dir, Kind::Documents)?;
    policy::compile(&sources, &Options { root_namespace: root_namespace.to_owned() }).map_err(LoadError::Problems)
}

/// Which of a directory's files are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `*.yaml` and `*.yml`, without the tests.
    Documents,
    /// `*.test.yaml` and `*.test.yml`.
    Tests,
}

/// Reads the files of one kind, in the order of their names. Hidden files are editors' and Kubernetes' own.
///
/// # Errors
/// When the directory or a file in it cannot be read.
pub(crate) fn read(dir: &Path, kind: Kind) -> Result<Vec<Source>, LoadError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| LoadError::Read { path, source }
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed(dir))? {
        let path = entry.map_err(failed(dir))?.path();
        if kind_of(&path) == Some(kind) {
            paths.push(path);
        }
    }
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let mut text = String::new();
            // One byte past the reader's limit is enough for it to say that the file is too large.
            let limit = policy::yaml::MAX_FILE_BYTES as u64 + 1;
            std::fs::File::open(path)
                .and_then(|file| file.take(limit).read_to_string(&mut text))
                .map_err(failed(path))?;
            Ok(Source { name: path.display().to_string(), text })
        })
        .collect()
}

fn kind_of(path: &Path) -> Option<Kind> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(".yaml").or_else(|| name.strip_suffix(".yml"))?;
    if stem.starts_with('.') {
        return None;
    }
    Some(if stem.ends_with(".test") { Kind::Tests } else { Kind::Documents })
}
