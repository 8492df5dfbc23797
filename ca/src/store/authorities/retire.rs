//! The third step: what was replaced is forgotten.

use super::{Terms, change, generations, left_in_token};
use crate::ledger::Event;
use crate::rotation::{Blocker, By, Generation, Generations, Refused, Role, State, Step};
use crate::store::acknowledged;
use crate::store::bundle::{StoredBundle, publish};
use crate::store::certificate::still_valid;
use crate::store::changes::Topic;
use crate::store::session::Transaction;
use crate::store::sql::{self, values};
use crate::store::writer::Batch;
use rustls_pki_types::CertificateDer;
use std::time::SystemTime;

pub(super) fn retire(
    batch: &mut Batch<'_, '_>,
    role: Role,
    terms: Terms,
    by: By,
    now: SystemTime,
) -> sql::Result<Result<Step, Refused>> {
    let present = generations(batch)?;
    let plan = match plan(batch, &present, role, terms, now)? {
        Ok(Some(plan)) => plan,
        Ok(None) => return Ok(Ok(Step::default())),
        Err(refused) => return Ok(Err(refused)),
    };
    if let Some(kept) = &plan.kept {
        publish(batch, kept, now)?;
        if !plan.blockers.is_empty() {
            // Connections that were made with its certificates are closed.
            let roots = plan.old.iter().filter(|one| one.role == Role::Root);
            roots
                .into_iter()
                .try_for_each(|root| bar(batch, &root.name, now))?;
        }
    }
    for one in &plan.old {
        change(batch, &one.name, State::Retired, now)?;
    }
    let authorities: Vec<_> = plan.old.iter().map(|one| one.name.clone()).collect();
    let left_in_token = left_in_token(plan.old.iter().copied());
    batch.audit(
        now,
        &Event::AuthorityRetired {
            role: role.as_str().to_owned(),
            authorities: authorities.clone(),
            by: by.as_str().to_owned(),
            despite: plan.blockers.iter().map(Blocker::to_string).collect(),
            left_in_token: left_in_token.clone(),
        },
    )?;
    batch.announce(Topic::Authorities)?;
    Ok(Ok(Step {
        authorities,
        left_in_token,
        despite: plan.blockers,
        ..Step::default()
    }))
}

/// Why what was replaced would not be retired, for whoever looks often: nobody's record waits for the answer.
pub(crate) fn can_retire(
    transaction: &mut Transaction<'_>,
    role: Role,
    terms: Terms,
    now: SystemTime,
) -> sql::Result<Result<(), Refused>> {
    let present = generations(transaction)?;
    Ok(plan(transaction, &present, role, terms, now)?.map(drop))
}

struct Plan<'g> {
    /// Roots, and what is below them; or intermediates.
    old: Vec<&'g Generation>,
    /// What is left of the trust bundle, when a root goes.
    kept: Option<Vec<CertificateDer<'static>>>,
    blockers: Vec<Blocker>,
}

/// `None` when it is done already, perhaps by an attempt whose end nobody saw.
fn plan<'g>(
    transaction: &mut Transaction<'_>,
    present: &'g Generations,
    role: Role,
    terms: Terms,
    now: SystemTime,
) -> sql::Result<Result<Option<Plan<'g>>, Refused>> {
    let roots: Vec<_> = present.retiring(role).collect();
    if roots.is_empty() {
        let is_done = present
            .0
            .iter()
            .any(|one| one.role == role && one.state == State::Retired);
        return Ok(match is_done {
            true => Ok(None),
            false => Err(Refused::NothingRetiring(role)),
        });
    }
    let mut old = roots.clone();
    let bundle = StoredBundle::read(transaction)?;
    let mut blockers = Vec::new();
    let mut kept = None;
    if role == Role::Root {
        old.extend(roots.iter().flat_map(|root| present.below(&root.name)));
        let Some(active) = present.root() else {
            return Ok(Err(Refused::RootMissing));
        };
        let rest = without(bundle.authorities(), &roots);
        let is_kept = |der: &CertificateDer<'static>| rest.contains(der);
        if !active.certificate.as_ref().is_some_and(is_kept) {
            return Ok(Err(Refused::RootMissing));
        }
        kept = Some(rest);
        // All of them: whoever does not know the new root is alone from now on.
        let missing = acknowledged::missing(transaction, role, active.sequence, 100, now)?;
        blockers.extend(missing);
    }
    let names: Vec<_> = old.iter().map(|one| one.name.clone()).collect();
    if let Some(own) = bundle.server_id() {
        blockers.extend(still_valid(transaction, role, &names, &own, now)?);
    }
    if !blockers.is_empty() && !terms.force {
        return Ok(Err(Refused::Blocked(blockers)));
    }
    Ok(Ok(Some(Plan {
        old,
        kept,
        blockers,
    })))
}

/// A trust bundle, but for the certificates of some authorities.
pub(super) fn without(
    mut bundle: Vec<CertificateDer<'static>>,
    authorities: &[&Generation],
) -> Vec<CertificateDer<'static>> {
    bundle.retain(|der| {
        !authorities
            .iter()
            .any(|one| one.certificate.as_ref() == Some(der))
    });
    bundle
}

/// Nothing that its key signed counts any more.
fn bar(batch: &mut Batch<'_, '_>, authority: &str, now: SystemTime) -> sql::Result<()> {
    batch.execute(
        "INSERT INTO barred (kind, name, since, lifted_at, reason) VALUES ('authority', $1, $2, NULL, 'superseded')
         ON CONFLICT (kind, name) DO NOTHING",
        values![authority, now],
    )?;
    batch.announce_by_clock(Topic::Revocations, now)
}
