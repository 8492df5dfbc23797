//! The Workload API of a sidecar or an agent: certificates of the CA client, with their keys, as the `workload` crate wants them.
//!
//! A sidecar's workload gets certificates and keys of its own, for the same identity: what the sidecar itself proves its
//! identity with is never handed out.

pub(crate) mod standing;

use crate::config::Identity;
use crate::enrolment;
use anyhow::Context;
use ca::client::{self, Handles, Keys, Registration};
use identity::{PortableSvid, Revocations, TrustBundle, Usage};
use proxy::drain::{Drain, Readiness};
use standing::Standings;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use workload::{Config, Entitled, FederatesWith, Holdings, Predecessor, Server};

/// For a CA that is slow to issue: less than the process before this one waits until it is relieved.
const SVID: Duration = Duration::from_secs(45);
/// Between attempts to bind the socket again.
const BIND_AGAIN: Duration = Duration::from_secs(1);

/// Who is entitled to an identity, and on what terms.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) entitled: Entitled,
    pub(crate) hint: String,
    pub(crate) federates_with: FederatesWith,
}

/// For the workload beside a sidecar, whose identity is `identity`. The tasks of the CA client end with the runtime.
pub(crate) fn of_sidecar(served: Config, identity: &Identity) -> anyhow::Result<Sidecars> {
    let terms = Terms {
        entitled: Entitled::Admitted,
        hint: String::new(),
        federates_with: FederatesWith::All,
    };
    Ok(Sidecars {
        served,
        standings: offer(vec![(identity, terms)])?,
    })
}

/// A sidecar's, which lasts as long as the sidecar.
pub(crate) struct Sidecars {
    served: Config,
    standings: Standings,
}

impl Sidecars {
    /// How its identity stands.
    pub(crate) fn standings(&self) -> Standings {
        self.standings.clone()
    }

    /// Binds the socket, at which nobody may be serving.
    pub(crate) fn bind(&self) -> anyhow::Result<Server> {
        self.bind_after(Predecessor::None)
    }

    /// Takes the place of the process that serves there, once there is a certificate to hand out: until then workloads go on
    /// finding the one that has theirs.
    ///
    /// # Errors
    /// When that takes too long, or `drain` starts before.
    pub(crate) async fn replace(&self, drain: &Drain) -> anyhow::Result<Server> {
        let mut holdings = self.standings.holdings.clone();
        let has_svid = |held: &Arc<Holdings>| held.identities.iter().all(|of| of.svid.is_some());
        let obtained = tokio::select! {
            obtained = tokio::time::timeout(SVID, holdings.wait_for(has_svid)) => obtained,
            () = drain.started() => anyhow::bail!("this process was told to stop"),
        };
        obtained
            .with_context(|| {
                format!(
                    "no certificate for the workload within {} s",
                    SVID.as_secs()
                )
            })?
            .context("no certificate for the workload is to come")?;
        self.bind_after(Predecessor::Replaced)
    }

    fn bind_after(&self, predecessor: Predecessor) -> anyhow::Result<Server> {
        let (served, holdings) = (self.served.clone(), self.standings.holdings.clone());
        Ok(Server::bind(served, holdings, predecessor)?)
    }

    /// Serves until `drain` starts. Should it end before, it is bound again, and until then the sidecar is not ready.
    pub(crate) async fn run(self, server: Server, drain: Drain, readiness: Readiness) {
        let (mut server, mut unready) = (Some(server), None);
        loop {
            let ended = match server.take() {
                Some(server) => {
                    drop(unready.take());
                    let ended = server.run(drain.started()).await;
                    ended.map_err(|error| error.to_string())
                }
                None => Ok(()),
            };
            if drain.is_started() {
                return;
            }
            unready.get_or_insert_with(|| readiness.wait_for("the Workload API"));
            if let Err(error) = ended {
                tracing::error!(error, "the Workload API has ended; it is bound again");
            }
            tokio::select! {
                () = drain.started() => return,
                () = tokio::time::sleep(BIND_AGAIN) => {}
            }
            match self.bind() {
                Ok(bound) => server = Some(bound),
                Err(error) => {
                    let error: &dyn std::error::Error = error.as_ref();
                    tracing::error!(error, "the Workload API cannot be bound");
                }
            }
        }
    }
}

/// For several identities, which have to be of one trust domain.
pub(crate) fn bind(
    served: Config,
    identities: Vec<(&Identity, Terms)>,
    predecessor: Predecessor,
) -> anyhow::Result<(Server, Standings)> {
    let standings = offer(identities)?;
    let server = Server::bind(served, standings.holdings.clone(), predecessor)?;
    Ok((server, standings))
}

/// Starts a client for each identity. What they bring is published until nobody listens.
fn offer(identities: Vec<(&Identity, Terms)>) -> anyhow::Result<Standings> {
    let mut clients = Vec::new();
    let mut own: Option<TrustBundle> = None;
    for (identity, terms) in identities {
        let enrolment = enrolment::of(identity, Keys::HandedOut)?;
        own.get_or_insert_with(|| enrolment.bundle.clone());
        let handles = client::start(enrolment)?;
        let offered = workload::Identity {
            id: identity.id.clone(),
            svid: None,
            tokens: handles.tokens.clone(),
            hint: terms.hint,
            entitled: terms.entitled,
            federates_with: terms.federates_with,
        };
        clients.push((offered, handles));
    }
    let own = own.context("expected an identity to hand out")?;
    Ok(publish(own, clients))
}

/// What the clients bring, as one value that is published again with each change.
fn publish(own: TrustBundle, clients: Vec<(workload::Identity, Handles)>) -> Standings {
    let (identities, handles): (Vec<_>, Vec<_>) = clients.into_iter().unzip();
    let clients = handles.iter().map(|handles| handles.state.clone());
    let clients = clients.collect();
    let (sender, holdings) = watch::channel(Arc::new(Holdings {
        identities,
        own: Arc::new(own),
        federated: Vec::new(),
    }));
    let sender = Arc::new(sender);
    for (place, handles) in handles.into_iter().enumerate() {
        let configured = sender.borrow().identities[place].clone();
        tokio::spawn(follow(Arc::clone(&sender), (place, configured), handles));
    }
    Standings { holdings, clients }
}

/// What the configuration says of an identity, and where it says nothing, what the CA does. Bundles come with it that neither
/// keeps from it.
fn on_terms(
    configured: &workload::Identity,
    registration: &Registration,
) -> (String, FederatesWith) {
    let hint = match configured.hint.as_str() {
        "" => &registration.hint,
        hint => hint,
    };
    let federates_with = match (&configured.federates_with, &registration.federates_with) {
        (configured, None) => configured.clone(),
        (FederatesWith::All, Some(named)) => FederatesWith::Named(named.iter().cloned().collect()),
        (FederatesWith::Named(configured), Some(named)) => {
            let both = configured.iter().filter(|name| named.contains(name));
            FederatesWith::Named(both.cloned().collect())
        }
    };
    (hint.to_owned(), federates_with)
}

/// Keeps one identity, and the bundle, up to date. Ends with the client, or when nobody listens any more.
async fn follow(
    holdings: Arc<watch::Sender<Arc<Holdings>>>,
    (place, configured): (usize, workload::Identity),
    mut handles: Handles,
) {
    loop {
        let svid = handles.portable.borrow_and_update().clone();
        let bundle = Arc::clone(&handles.bundle.borrow_and_update());
        let federated = Arc::clone(&handles.federated.borrow_and_update());
        let revocations = Arc::clone(&handles.revocations.borrow_and_update());
        let registration = handles.registration.borrow_and_update().clone();
        let is_revoked = svid
            .as_ref()
            .is_some_and(|svid| revokes(&revocations, &bundle, svid));
        if is_revoked {
            tracing::error!(
                "a certificate of the Workload API is revoked, or of no authority that is trusted: it is handed out no more"
            );
        }
        // Every client hears of a new bundle, and every change has all streams look: the second one to bring it changes nothing.
        holdings.send_if_modified(|present| {
            let mut next = Holdings::clone(present);
            let identity = &mut next.identities[place];
            identity.svid = svid.filter(|_| !is_revoked);
            // Callers are refused, and their streams end with that, until there is another certificate.
            identity.entitled = match is_revoked {
                true => Entitled::Nobody,
                false => configured.entitled.clone(),
            };
            (identity.hint, identity.federates_with) = on_terms(&configured, &registration);
            next.federated = client::newest(&present.federated, federated.to_vec());
            // Each client has its own word of the CA, and one may be ahead of the others.
            if next.own.check_successor(&bundle).is_ok() {
                next.own = bundle;
            }
            let is_news = !is_same(present, &next, place);
            if is_news {
                *present = Arc::new(next);
            }
            is_news
        });
        let has_changed = tokio::select! {
            changed = handles.portable.changed() => changed,
            changed = handles.bundle.changed() => changed,
            changed = handles.federated.changed() => changed,
            changed = handles.registration.changed() => changed,
            changed = handles.revocations.changed() => changed,
            () = holdings.closed() => return,
        };
        if has_changed.is_err() {
            return;
        }
    }
}

/// Whether nothing of what is handed out differs, if no identity does but the one at `place`.
fn is_same(present: &Holdings, next: &Holdings, place: usize) -> bool {
    let (a, b) = (&present.identities[place], &next.identities[place]);
    let svid = |identity: &workload::Identity| identity.svid.as_ref().map(Arc::as_ptr);
    svid(a) == svid(b)
        && a.entitled == b.entitled
        && a.hint == b.hint
        && a.federates_with == b.federates_with
        && present.own == next.own
        && present.federated == next.federated
}

/// Whether `svid` is on the list. It is looked at as of a time at which it was valid; one that does not verify to the bundle
/// even then is nobody's to hand out.
fn revokes(revocations: &Revocations, bundle: &TrustBundle, svid: &PortableSvid) -> bool {
    let now = SystemTime::now().clamp(svid.leaf().not_before, svid.leaf().not_after);
    let chain = bundle.verify_chain(svid.chain(), Usage::Client, now);
    chain.map_or(true, |chain| revocations.check(&chain).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::TrustDomain;

    #[test]
    fn what_the_configuration_leaves_open_the_ca_says_and_neither_widens_the_other() {
        let domain = |name: &str| TrustDomain::parse(name).unwrap();
        let (a, b) = (domain("a.test"), domain("b.test"));
        let configured = |hint: &str, federates_with| workload::Identity {
            id: identity::SpiffeId::parse("spiffe://own.test/a").unwrap(),
            svid: None,
            hint: hint.to_owned(),
            tokens: tokio::sync::mpsc::channel(1).0,
            entitled: Entitled::Nobody,
            federates_with,
        };
        let said = |names: Option<&[&TrustDomain]>| Registration {
            hint: "ca".to_owned(),
            federates_with: names.map(|names| names.iter().copied().cloned().collect()),
        };
        let named =
            |names: &[&TrustDomain]| FederatesWith::Named(names.iter().copied().cloned().collect());
        for (local, ca, expected) in [
            (FederatesWith::All, None, FederatesWith::All),
            (FederatesWith::All, Some(&[&a][..]), named(&[&a])),
            (FederatesWith::All, Some(&[]), named(&[])),
            (named(&[&a]), None, named(&[&a])),
            (named(&[&a]), Some(&[&a, &b]), named(&[&a])),
            (named(&[&a]), Some(&[&b]), named(&[])),
        ] {
            let (hint, found) = on_terms(&configured("", local.clone()), &said(ca));
            assert_eq!((hint.as_str(), found), ("ca", expected), "{local:?} {ca:?}");
        }
        let (hint, _) = on_terms(&configured("file", FederatesWith::All), &said(None));
        assert_eq!(hint, "file");
    }
}
