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

/// Compiles the documents of `dir`: `*.yaml` and `*.yml`, in the order of their names. Hidden files are editors' and
/// Kubernetes' own.
///
/// # Errors
/// When the directory or a file in it cannot be read, or with every problem found in them.
pub(crate) fn load(dir: &Path, options: Options) -> Result<Policy, LoadError> {
    policy::compile(&read(dir)?, &options).map_err(LoadError::Problems)
}

fn read(dir: &Path) -> Result<Vec<Source>, LoadError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| LoadError::Read { path, source }
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed(dir))? {
        let path = entry.map_err(failed(dir))?.path();
        if is_document(&path) {
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
            Ok(Source {
                name: path.display().to_string(),
                text,
            })
        })
        .collect()
}

fn is_document(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml"))
}
