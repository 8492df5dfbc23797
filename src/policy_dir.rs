//! A directory of policy documents, from disk to a compiled policy. (The policy crate does no I/O.)

use crate::config::problems_text;
use policy::yaml::Problem;
use policy::{Options, Policy, Source};
use proxy::files::{Stamp, read_text};
use std::io;
use std::path::{Path, PathBuf};

/// Why a directory did not become a policy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("cannot read the policy in {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("expected at least one policy document (*.yaml or *.yml) in {}, found none", .0.display())]
    Empty(PathBuf),
    #[error("{}", problems_text(.0))]
    Problems(Vec<Problem>),
}

/// Compiles the documents of `dir`: `*.yaml` and `*.yml`. Hidden files are editors' and Kubernetes' own.
///
/// # Errors
/// When the directory or a file in it cannot be read, or with every problem found in them. A directory without
/// documents is more often a wrong path or a volume not mounted than somebody's wish that nothing be allowed.
pub(crate) fn load(dir: &Path, options: &Options) -> Result<Policy, LoadError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| LoadError::Read { path, source }
    };
    let mut sources = Vec::new();
    for path in documents(dir).map_err(failed(dir))? {
        let text = read_text(&path).map_err(failed(&path))?;
        let name = path.display().to_string();
        sources.push(Source { name, text });
    }
    if sources.is_empty() {
        return Err(LoadError::Empty(dir.to_owned()));
    }
    policy::compile(&sources, options).map_err(LoadError::Problems)
}

/// Adds every file that [`load`] would read.
pub(crate) fn stamp(dir: &Path, stamp: &mut Stamp) {
    match documents(dir) {
        Ok(paths) => paths.iter().for_each(|path| stamp.add(path)),
        Err(error) => stamp.add_failed(dir, &error),
    }
}

/// The YAML files of a directory, in the order of their names.
pub(crate) fn documents(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if is_document(&path) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn is_document(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    !name.starts_with(b".") && (name.ends_with(b".yaml") || name.ends_with(b".yml"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn grant(path: &str) -> String {
        format!(
            "apiVersion: tipstaff.dev/v1alpha1\nkind: Grant\nmetadata: {{name: g, namespace: shop}}\nspec: {{\
             from: [\"spiffe://a.test/x\"], to: [\"spiffe://a.test/ns/shop/sa/y\"], allow: [{{methods: [GET], path: {path}}}], \
             purpose: {{id: i, owner: o}}, validity: {{notAfter: never, because: test}}}}\n"
        )
    }

    fn stamp_of(dir: &Path) -> Stamp {
        let mut found = Stamp::default();
        stamp(dir, &mut found);
        found
    }

    fn generation(dir: &Path) -> Result<String, String> {
        let policy = load(dir, &Options::default()).map_err(|error| error.to_string())?;
        Ok(policy.fingerprint().to_owned())
    }

    /// A ConfigMap volume: every file is a link through `..data`, which is renamed over to change them all at once.
    #[test]
    fn a_swapped_config_map_is_seen_and_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |name: &str| dir.path().join(name);
        for (version, path) in [("..1", "/a"), ("..2", "/b")] {
            fs::create_dir(at(version)).expect("a folder");
            fs::write(at(version).join("g.yaml"), grant(path)).expect("a file");
        }
        symlink("..1", at("..data")).expect("a link");
        symlink("..data/g.yaml", at("g.yaml")).expect("a link");
        let (stamp, first) = (stamp_of(dir.path()), generation(dir.path()));
        assert!(first.is_ok(), "{first:?}");
        symlink("..2", at("..data_tmp")).expect("a link");
        fs::rename(at("..data_tmp"), at("..data")).expect("swapped");
        assert_ne!(stamp_of(dir.path()), stamp);
        let second = generation(dir.path());
        assert!(second.is_ok() && second != first, "{second:?}");
    }

    #[test]
    fn a_folder_that_goes_and_comes_back_is_seen_each_time_and_never_read_as_an_empty_policy() {
        let parent = tempfile::tempdir().expect("a folder");
        let dir = parent.path().join("policy");
        let mut seen = Vec::new();
        let mut expect = |what: &str, problem: Option<&str>| {
            let now = stamp_of(&dir);
            assert_ne!(seen.last(), Some(&now), "{what}");
            seen.push(now);
            match (generation(&dir), problem) {
                (Ok(_), None) => {}
                (Err(error), Some(problem)) => assert!(error.contains(problem), "{what}: {error}"),
                (found, _) => panic!("{what}: {found:?}"),
            }
        };
        expect("missing", Some("cannot read the policy in"));
        fs::create_dir(&dir).expect("a folder");
        expect("empty", Some("expected at least one policy document"));
        fs::write(dir.join("g.yaml"), "").expect("a file");
        expect(
            "cut short",
            Some("g.yaml:1:1: expected a document, found none"),
        );
        fs::write(dir.join("g.yaml"), &grant("/a")[..150]).expect("a file");
        expect("half written", Some("g.yaml:4"));
        fs::write(dir.join("g.yaml"), grant("/a")).expect("a file");
        expect("whole", None);
        fs::remove_dir_all(&dir).expect("removed");
        expect("removed", Some("cannot read the policy in"));
        fs::create_dir(&dir).expect("a folder");
        fs::write(dir.join("g.yaml"), grant("/a")).expect("a file");
        expect("made anew", None);
        let large = fs::File::create(dir.join("large.yaml")).expect("a file");
        large.set_len(50 << 20).expect("50 MiB");
        expect(
            "too large",
            Some("large.yaml:1:1: expected at most 4194304 bytes"),
        );
    }
}
