//! The Workload API of a sidecar or an agent: certificates of the CA client, with their keys, as the `workload` crate wants them.
//!
//! A sidecar's workload gets certificates and keys of its own, for the same identity: what the sidecar itself proves its
//! identity with is never handed out.

use crate::config::Identity;
use crate::enrolment;
use anyhow::Context;
use ca::client::{self, Handles, Keys};
use identity::TrustBundle;
use std::sync::Arc;
use tokio::sync::watch;
use workload::{Config, Entitled, FederatesWith, Holdings, Predecessor, Server};

/// Who is entitled to an identity, and on what terms.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) entitled: Entitled,
    pub(crate) hint: String,
    pub(crate) federates_with: FederatesWith,
}

/// For the workload beside a sidecar, whose identity is `identity`. The tasks of the CA client end with the runtime.
pub(crate) fn of_sidecar(
    served: Config,
    identity: &Identity,
    takes_over: bool,
) -> anyhow::Result<Server> {
    let terms = Terms {
        entitled: Entitled::Admitted,
        hint: String::new(),
        federates_with: FederatesWith::All,
    };
    let predecessor = match takes_over {
        true => Predecessor::Replaced,
        false => Predecessor::None,
    };
    bind(served, vec![(identity, terms)], predecessor)
}

/// For several identities, which have to be of one trust domain.
pub(crate) fn bind(
    served: Config,
    identities: Vec<(&Identity, Terms)>,
    predecessor: Predecessor,
) -> anyhow::Result<Server> {
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
    let holdings = publish(own.context("expected an identity to hand out")?, clients);
    Ok(Server::bind(served, holdings, predecessor)?)
}

/// What the clients bring, as one value that is published again with each change.
fn publish(
    own: TrustBundle,
    clients: Vec<(workload::Identity, Handles)>,
) -> watch::Receiver<Arc<Holdings>> {
    let (identities, handles): (Vec<_>, Vec<_>) = clients.into_iter().unzip();
    let (sender, receiver) = watch::channel(Arc::new(Holdings {
        identities,
        own: Arc::new(own),
        federated: Vec::new(),
    }));
    let sender = Arc::new(sender);
    for (place, handles) in handles.into_iter().enumerate() {
        tokio::spawn(follow(Arc::clone(&sender), place, handles));
    }
    receiver
}

/// Keeps one identity, and the bundle, up to date. Ends with the client, or when nobody listens any more.
async fn follow(holdings: Arc<watch::Sender<Arc<Holdings>>>, place: usize, mut handles: Handles) {
    loop {
        let svid = handles.portable.borrow_and_update().clone();
        let bundle = Arc::clone(&handles.bundle.borrow_and_update());
        let federated = Arc::clone(&handles.federated.borrow_and_update());
        holdings.send_modify(|present| {
            let mut next = Holdings::clone(present);
            next.identities[place].svid = svid;
            next.federated = federated.to_vec();
            // Each client has its own word of the CA, and one may be ahead of the others.
            if next.own.check_successor(&bundle).is_ok() {
                next.own = bundle;
            }
            *present = Arc::new(next);
        });
        let has_changed = tokio::select! {
            changed = handles.portable.changed() => changed,
            changed = handles.bundle.changed() => changed,
            changed = handles.federated.changed() => changed,
            () = holdings.closed() => return,
        };
        if has_changed.is_err() {
            return;
        }
    }
}
