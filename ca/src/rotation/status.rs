//! Where a rotation stands, for people and programs.

use super::blocked::Blocker;
use super::{Generation, Role, State};
use crate::authority::{OpenError, read_certificate};
use crate::csr::KeyHash;
use crate::directory::{INTERMEDIATE_CERTIFICATE, ROOT_CERTIFICATE};
use crate::inspect::rfc3339;
use crate::profile::CaCertificate;
use crate::store::{self, Database, acknowledged, generations, still_valid, unix_seconds};
use identity::SpiffeId;
use serde::Serialize;
use std::fmt;
use std::path::Path;
use std::time::SystemTime;

/// Times are RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    pub bundle_sequence: u64,
    /// Sidecars with a valid certificate that have said which bundle they have, and how many of them have the present one.
    pub live_sidecars: u64,
    pub acknowledged: u64,
    /// Enrolled, with a valid certificate, and never said which bundle they have: nobody waits for them.
    pub silent: u64,
    /// Who has not, the first of them.
    pub laggards: Vec<super::Laggard>,
    pub authorities: Vec<Standing>,
}

/// One authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    pub authority: String,
    pub role: &'static str,
    pub state: &'static str,
    /// `None` before the first rotation.
    pub since: Option<String>,
    pub not_after: Option<String>,
    /// Valid certificates of workloads that it signed.
    pub certificates: u64,
}

impl Standing {
    fn of(one: &Generation) -> Self {
        let info = one
            .certificate
            .as_ref()
            .and_then(|der| CaCertificate::parse(der));
        Self {
            authority: one.name.clone(),
            role: one.role.as_str(),
            state: one.state.as_str(),
            since: Some(rfc3339(unix_seconds(one.since))),
            not_after: info.map(|info| rfc3339(unix_seconds(info.validity.not_after))),
            certificates: 0,
        }
    }

    fn of_file(directory: &Path, name: &str, role: Role) -> Result<Self, OpenError> {
        let (_, info) = read_certificate(directory, name)?;
        Ok(Self {
            authority: KeyHash(info.key_hash()).to_string(),
            role: role.as_str(),
            state: State::Active.as_str(),
            since: None,
            not_after: Some(rfc3339(unix_seconds(info.validity.not_after))),
            certificates: 0,
        })
    }
}

/// Looks beside a running server.
///
/// # Errors
/// When the database or, before the first rotation, the directory cannot be read.
pub fn status(directory: &Path, database: &Database, now: SystemTime) -> Result<Status, OpenError> {
    let (bundle, _) = store::read_settings(database)?;
    let own = SpiffeId::ca_server(bundle.trust_domain());
    let sequence = bundle.sequence();
    let mut authorities: Vec<_> = store::read(database, generations)?
        .0
        .iter()
        .map(Standing::of)
        .collect();
    if authorities.is_empty() {
        authorities.push(Standing::of_file(directory, ROOT_CERTIFICATE, Role::Root)?);
        let issuer = Standing::of_file(directory, INTERMEDIATE_CERTIFICATE, Role::Intermediate)?;
        if issuer.authority != authorities[0].authority {
            authorities.push(issuer);
        }
    }
    let found = store::read(database, |transaction| {
        for one in &mut authorities {
            let names = [one.authority.clone()];
            let valid = still_valid(transaction, Role::Root, &names, &own, now)?;
            if let Some(Blocker::StillValid { certificates, .. }) = valid {
                one.certificates = certificates;
            }
        }
        let missing = acknowledged::missing(transaction, Role::Root, sequence, 100, now)?;
        let silent = acknowledged::silent(transaction, now)?.count;
        let counted = acknowledged::count(transaction, sequence, now)?;
        Ok((counted, silent, missing))
    })?;
    let ((live_sidecars, acknowledged), silent, missing) = found;
    Ok(Status {
        bundle_sequence: sequence,
        live_sidecars,
        acknowledged,
        silent,
        laggards: match missing {
            Some(Blocker::NotAcknowledged { laggards, .. }) => laggards,
            _ => Vec::new(),
        },
        authorities,
    })
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            bundle_sequence,
            live_sidecars,
            acknowledged,
            silent,
            ..
        } = self;
        writeln!(
            f,
            "trust bundle {bundle_sequence}: {acknowledged} of {live_sidecars} live sidecars have it"
        )?;
        if *silent > 0 {
            writeln!(
                f,
                "  {silent} more that enrolled have never said which they have: nobody waits for them"
            )?;
        }
        for laggard in &self.laggards {
            writeln!(
                f,
                "  not {} (bundle {})",
                laggard.spiffe_id, laggard.sequence
            )?;
        }
        for one in &self.authorities {
            let Standing {
                authority,
                role,
                state,
                certificates,
                ..
            } = one;
            let ends = one.not_after.as_deref().unwrap_or("-");
            writeln!(
                f,
                "{role:<12} {state:<9} until {ends}  {certificates} valid certificates  {authority}"
            )?;
        }
        Ok(())
    }
}
