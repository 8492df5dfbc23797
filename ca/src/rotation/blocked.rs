//! Why a step of a rotation is not taken, and what breaks when it is taken all the same.

use super::{Role, State};
use crate::inspect::rfc3339;
use crate::store::unix_seconds;
use serde::Serialize;
use std::fmt::{self, Write};
use std::time::SystemTime;

/// How many laggards are named.
pub(crate) const NAMED: u32 = 20;

/// A sidecar that is alive and has not said that it has a trust bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Laggard {
    pub spiffe_id: String,
    /// Of its present certificate.
    pub serial: String,
    /// The last bundle that it said it has.
    pub sequence: u64,
}

/// What is in the way of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocker {
    /// Sidecars that do not know the new root.
    NotAcknowledged {
        role: Role,
        /// The trust bundle that they need.
        sequence: u64,
        alive: u64,
        acknowledged: u64,
        percent: u8,
        /// The first of them.
        laggards: Vec<Laggard>,
    },
    /// Certificates of workloads that the old authority signed.
    StillValid {
        role: Role,
        certificates: u64,
        /// In seconds since the Unix epoch.
        until: i64,
    },
    /// Other trust domains may not have asked for the bundle since the root is in it.
    NotFollowed {
        /// By then they have. In seconds since the Unix epoch.
        until: i64,
    },
}

impl Blocker {
    pub(crate) fn not_followed(until: SystemTime) -> Self {
        let until = unix_seconds(until);
        Self::NotFollowed { until }
    }

    /// What happens when the step is forced.
    pub fn consequence(&self) -> String {
        match self {
            Self::NotAcknowledged { laggards, .. } => {
                let mut text = "until they hear of it, these refuse whoever has a certificate under the new root:".to_owned();
                name(&mut text, laggards);
                text
            }
            Self::StillValid {
                role: Role::Root,
                certificates,
                until,
            } => format!(
                "{certificates} certificates that are valid until {} are refused from now on: their holders have to enrol again, and connections with them are closed",
                rfc3339(*until)
            ),
            Self::StillValid {
                role: Role::Intermediate,
                certificates,
                ..
            } => format!(
                "what {certificates} valid certificates were signed with is forgotten: they stay good, and no CRL of their issuer is signed any more"
            ),
            Self::NotFollowed { until } => format!(
                "other trust domains that have not asked for the bundle yet refuse whoever has a certificate under the new root, until they do, by {}",
                rfc3339(*until)
            ),
        }
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAcknowledged {
                sequence,
                alive,
                acknowledged,
                percent,
                laggards,
                ..
            } => {
                write!(
                    f,
                    "expected {percent} % of {alive} live sidecars to have trust bundle {sequence}, found {acknowledged}; missing:"
                )?;
                let mut text = String::new();
                name(&mut text, laggards);
                f.write_str(&text)
            }
            Self::StillValid {
                role,
                certificates,
                until,
            } => write!(
                f,
                "{certificates} certificates under the old {role} are valid, the last until {}",
                rfc3339(*until)
            ),
            Self::NotFollowed { until } => write!(
                f,
                "other trust domains may not have the new root before {}",
                rfc3339(*until)
            ),
        }
    }
}

fn name(text: &mut String, laggards: &[Laggard]) {
    for laggard in laggards {
        let Laggard {
            spiffe_id,
            serial,
            sequence,
        } = laggard;
        let _ = write!(
            text,
            " {spiffe_id} (certificate {serial}, bundle {sequence})"
        );
    }
}

/// Why a step was not taken. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("no {0} is prepared: `tipstaff ca rotate prepare --{0}` does that")]
    NothingPrepared(Role),
    #[error("no {0} is being replaced: one is once another has become active")]
    NothingRetiring(Role),
    /// Another replica or operator was quicker.
    #[error("the active root is another one than it was when this step began")]
    Overtaken,
    #[error("the trust bundle would be without the root that is active")]
    RootMissing,
    /// Sidecars would refuse what it signs.
    #[error(
        "the {role} that is prepared is revoked, or what is below it: {name}; `tipstaff ca rotate prepare --{role}` makes another in its place"
    )]
    Revoked { role: Role, name: String },
    #[error(
        "expected an authority that is valid now and for a day, found {0}; one that is revoked is prepared anew"
    )]
    NotValid(String),
    #[error("expected a key that is neither in use nor revoked, found that of {name}, which is {}", .state.as_str())]
    KeyInUse { name: String, state: State },
    #[error("{}", all(.0))]
    Blocked(Vec<Blocker>),
}

fn all(blockers: &[Blocker]) -> String {
    let texts: Vec<_> = blockers.iter().map(Blocker::to_string).collect();
    texts.join("; ")
}
