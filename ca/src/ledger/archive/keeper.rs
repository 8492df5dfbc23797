//! A CA that serves archives by itself.

use super::archive;
use crate::store::Database;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Between one look and the next.
const INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Files in one look: what a day of the busiest CA fills in an hour's look, and an end for one that never catches up.
const MAX_SEGMENTS: usize = 1000;

/// Where records go, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveOptions {
    /// As for [`archive`]. Replicas share it, or one of them alone archives.
    pub folder: PathBuf,
    /// Younger records stay.
    pub older_than: Duration,
}

/// Archives what is old enough, now and then every hour. Never returns. What fails is logged, and tried again by the hour: no
/// record is lost by it.
pub async fn keep_archiving(database: Database, options: ArchiveOptions) {
    loop {
        let (database, options) = (database.clone(), options.clone());
        // Files and the database block.
        let look = tokio::task::spawn_blocking(move || look(&database, &options));
        if look.await.is_err() {
            tracing::error!("the archiving of audit records has ended early");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn look(database: &Database, options: &ArchiveOptions) {
    let Some(before) = SystemTime::now().checked_sub(options.older_than) else {
        return;
    };
    for _ in 0..MAX_SEGMENTS {
        match archive(database, &options.folder, before) {
            Ok(Some(segment)) => tracing::info!(
                first = segment.first,
                last = segment.last,
                file = %segment.file.display(),
                "audit records archived"
            ),
            Ok(None) => return,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                return tracing::error!(
                    error,
                    "audit records are not archived, and stay in the database"
                );
            }
        }
    }
}
