//! `audit:`, what becomes of old audit records.

use crate::config::path;
use ca::ledger::ArchiveOptions;
use policy::yaml::{self, Node, Problems};
use std::time::Duration;

/// As for `ca audit archive`: a month of records is at hand for `ca audit list`.
pub(super) const DEFAULT_OLDER_THAN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Where records go, if they are to go by themselves.
pub(super) fn read(node: &Node, problems: &Problems) -> Option<ArchiveOptions> {
    yaml::map(node, problems, |map| map.required("archive", read_archive))
}

fn read_archive(node: &Node, problems: &Problems) -> Option<ArchiveOptions> {
    yaml::map(node, problems, |map| {
        let folder = map.required("folder", path);
        let older_than = map.optional("olderThan", yaml::duration);
        Some(ArchiveOptions {
            folder: folder?,
            older_than: older_than.unwrap_or(DEFAULT_OLDER_THAN),
        })
    })
}
