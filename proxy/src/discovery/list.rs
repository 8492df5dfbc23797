//! A list of endpoints in a file of its own.

use crate::config::{Endpoints, Source, listed};
use crate::files::{LOOK_EVERY, Looks, RETRY_AFTER, Stamp, read_text};
use policy::yaml::{self, Problems};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Why files of endpoints cannot be used: a line for each problem, with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EndpointsError(String);

/// Reads every file among `all`.
pub(super) fn check<'e>(all: impl Iterator<Item = &'e Endpoints>) -> Result<(), EndpointsError> {
    let failures = all.filter_map(|endpoints| match endpoints {
        Endpoints::Listed(_) => None,
        Endpoints::File(path) => read(path).err().map(|EndpointsError(text)| text),
    });
    let failures: Vec<String> = failures.collect();
    match failures.is_empty() {
        true => Ok(()),
        false => Err(EndpointsError(failures.join("\n"))),
    }
}

fn read(path: &Path) -> Result<Vec<Source>, EndpointsError> {
    let name = path.display().to_string();
    let text = read_text(path)
        .map_err(|error| EndpointsError(format!("cannot read the endpoints in {name}: {error}")))?;
    let problems = Problems::new();
    let node = yaml::parse_one(&name, &text, &problems);
    let sources = node.and_then(|node| listed(&node, &problems));
    problems.or_value(sources).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        EndpointsError(lines.join("\n"))
    })
}

/// A file that is followed as the configuration is.
#[derive(Debug)]
pub(super) struct List {
    path: PathBuf,
    /// None before the file was read for the first time.
    looks: Option<Looks>,
    retry_at: Option<Instant>,
}

impl List {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            looks: None,
            retry_at: None,
        }
    }

    /// What the file says, when that may be something new.
    pub(super) async fn next(mut self) -> (Self, Result<Vec<Source>, EndpointsError>) {
        let mut wait = match self.looks {
            Some(_) => LOOK_EVERY,
            None => Duration::ZERO,
        };
        loop {
            sleep(wait).await;
            wait = LOOK_EVERY;
            // Not on a thread that serves the admin port: the file may be on a network share.
            let path = self.path.clone();
            let stamp = tokio::task::spawn_blocking(move || {
                let mut stamp = Stamp::default();
                stamp.add(&path);
                stamp
            });
            let Ok(stamp) = stamp.await else { continue };
            let is_new = match &mut self.looks {
                Some(looks) => looks.take(stamp),
                None => {
                    self.looks = Some(Looks::since(stamp));
                    true
                }
            };
            if is_new || self.retry_at.is_some_and(|at| at <= Instant::now()) {
                self.looks.iter_mut().for_each(Looks::read);
                let path = self.path.clone();
                let read = tokio::task::spawn_blocking(move || read(&path)).await;
                let Ok(read) = read else { continue };
                self.retry_at = read.is_err().then(|| Instant::now() + RETRY_AFTER);
                return (self, read);
            }
        }
    }
}
