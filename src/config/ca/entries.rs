//! `entries:`, and files of registration entries: a map with a list `entries`.

use crate::config::{LoadError, load, path};
use crate::policy_dir;
use ca::entries::{Entry, MAX_ENTRIES, Written};
use policy::yaml::{self, Node, Problems};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) fn read_section(node: &Node, problems: &Problems) -> Option<PathBuf> {
    yaml::map(node, problems, |map| map.required("dir", path))
}

/// Every entry of the YAML files in `dir`.
///
/// # Errors
/// When the directory or a file cannot be read, or with every problem found in any of them.
pub(crate) fn load_dir(dir: &Path) -> Result<Vec<Entry>, LoadError> {
    let files = policy_dir::documents(dir).map_err(|source| LoadError::Read {
        path: dir.to_owned(),
        source,
    })?;
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    for file in files {
        match load_file(&file) {
            Ok(found) => entries.extend(found),
            Err(LoadError::Problems(found)) => problems.extend(found),
            Err(unreadable) => return Err(unreadable),
        }
    }
    match problems.is_empty() {
        true => Ok(entries),
        false => Err(LoadError::Problems(problems)),
    }
}

/// The entries of one file.
///
/// # Errors
/// As [`load_dir`].
pub(crate) fn load_file(file: &Path) -> Result<Vec<Entry>, LoadError> {
    load(file, |map| {
        map.required("entries", |node, problems| {
            let entries = yaml::list(read_entry)(node, problems)?;
            if entries.len() > MAX_ENTRIES as usize {
                problems.push(node.problem(format!("expected at most {MAX_ENTRIES} entries")));
            }
            Some(entries)
        })
    })
}

fn read_entry(node: &Node, problems: &Problems) -> Option<Entry> {
    let written = yaml::map(node, problems, |map| {
        let id = map.required("id", yaml::text);
        let selectors = map.required("selectors", yaml::list(yaml::text));
        let ttl = map.optional("ttl", yaml::duration);
        let hint = map.optional("hint", yaml::text);
        let dns_names = map.optional("dnsNames", yaml::list(yaml::text));
        let federates_with = map.optional("federatesWith", yaml::list(yaml::text));
        let recovery_grace = map.optional("recoveryGrace", yaml::duration);
        Some(Written {
            id: id?,
            selectors: selectors?,
            // Less than a second is none, and refused as such.
            ttl_seconds: ttl.map(|ttl: Duration| ttl.as_secs()),
            hint,
            dns_names: dns_names.unwrap_or_default(),
            federates_with: federates_with.unwrap_or_default(),
            recovery_grace_seconds: recovery_grace.map(|grace: Duration| grace.as_secs()),
        })
    })?;
    match Entry::try_from(written) {
        Ok(entry) => Some(entry),
        Err(error) => {
            problems.push(node.problem(error.to_string()));
            None
        }
    }
}

/// `entries` as such a file has them, in JSON, which is YAML.
pub(crate) fn to_file(entries: &[Entry]) -> serde_json::Value {
    let entries = entries.iter().map(|entry| {
        let written = entry.to_written();
        let mut file = serde_json::json!({"id": written.id, "selectors": written.selectors});
        if let Some(seconds) = written.ttl_seconds {
            file["ttl"] = format!("{seconds}s").into();
        }
        if let Some(hint) = written.hint {
            file["hint"] = hint.into();
        }
        if !written.dns_names.is_empty() {
            file["dnsNames"] = written.dns_names.into();
        }
        if !written.federates_with.is_empty() {
            file["federatesWith"] = written.federates_with.into();
        }
        if let Some(seconds) = written.recovery_grace_seconds {
            file["recoveryGrace"] = format!("{seconds}s").into();
        }
        file
    });
    serde_json::json!({"entries": entries.collect::<Vec<_>>()})
}
