//! What there is to hand out: identities with their keys, and the bundles to verify others with.
//!
//! Whoever talks to the CA publishes it whole, through a watch channel; the calls read it, and look again when it changes.

use crate::caller::{Caller, Look};
use crate::selector::Selector;
use identity::{PortableSvid, SpiffeId, TrustBundle, TrustDomain};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

/// Everything that callers may be given, at one moment.
#[derive(Debug, Clone)]
pub struct Holdings {
    /// In the order in which callers see them: the first is a caller's default.
    pub identities: Vec<Identity>,
    /// The trust domain of the identities.
    pub own: Arc<TrustBundle>,
    /// Bundles of other trust domains, never merged with each other or with our own.
    pub federated: Vec<Arc<TrustBundle>>,
}

/// One identity, and who is entitled to it.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Whose it is.
    pub id: SpiffeId,
    /// `None` until the first certificate.
    pub svid: Option<Arc<PortableSvid>>,
    /// What the operator calls it, for a workload that has several; empty when nothing.
    pub hint: String,
    /// Asks for tokens of this identity.
    pub tokens: mpsc::Sender<TokenAsk>,
    /// What must be true of a caller.
    pub entitled: Entitled,
    /// The foreign trust domains whose bundles come with it.
    pub federates_with: FederatesWith,
}

/// Audiences, and where the token goes, or why there is none: `PermissionDenied` and `Unimplemented` are for good, and the
/// caller is told so. Whoever answers has obtained it from the CA.
pub type TokenAsk = (Vec<String>, oneshot::Sender<Result<String, Status>>);

/// Who may have an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entitled {
    /// Whoever the socket admits: that of a sidecar, which serves one workload.
    Admitted,
    /// A caller of which all of these are true; an empty list entitles nobody.
    Selected(Vec<Selector>),
    /// Nobody, while the certificate is revoked.
    Nobody,
}

/// Which bundles of other trust domains come with an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FederatesWith {
    /// All that the CA federates with.
    All,
    /// Those of them that are named.
    Named(Vec<TrustDomain>),
}

impl Entitled {
    fn includes(&self, caller: &Caller) -> bool {
        match self {
            Self::Admitted => true,
            Self::Nobody => false,
            Self::Selected(selectors) => {
                !selectors.is_empty() && selectors.iter().all(|one| one.selects(caller))
            }
        }
    }

    fn asks_for(&self, caller: &Caller, seen: Look) -> Option<Look> {
        let Self::Selected(selectors) = self else {
            return None;
        };
        let (known, unknown): (Vec<_>, Vec<_>) =
            selectors.iter().partition(|one| one.looks_at() <= seen);
        let is_open = known.iter().all(|one| one.selects(caller));
        let next = unknown.iter().map(|one| one.looks_at()).min();
        next.filter(|_| is_open)
    }
}

impl FederatesWith {
    fn includes(&self, trust_domain: &TrustDomain) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(trust_domain),
        }
    }
}

/// The part of the holdings that one caller may have. Never without an identity.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// Those with a valid certificate.
    pub(crate) svids: Vec<Svid>,
    /// All of the caller's identities.
    pub(crate) identities: Vec<Named>,
    pub(crate) own: Arc<TrustBundle>,
    pub(crate) federated: Vec<Arc<TrustBundle>>,
}

/// An identity in a caller's view.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) id: SpiffeId,
    pub(crate) hint: String,
    pub(crate) tokens: mpsc::Sender<TokenAsk>,
}

/// A certificate in a caller's view.
#[derive(Debug, Clone)]
pub(crate) struct Svid {
    pub(crate) portable: Arc<PortableSvid>,
    pub(crate) hint: String,
}

impl Holdings {
    /// What `caller` may have; `None` if it is entitled to no identity.
    pub(crate) fn view(&self, caller: &Caller, now: SystemTime) -> Option<View> {
        let entitled = |identity: &&Identity| identity.entitled.includes(caller);
        let identities: Vec<_> = self.identities.iter().filter(entitled).collect();
        if identities.is_empty() {
            return None;
        }
        let svids = identities.iter().filter_map(|identity| {
            let portable = identity.svid.clone()?;
            (portable.leaf().not_after > now).then(|| Svid {
                portable,
                hint: identity.hint.clone(),
            })
        });
        let federated = self.federated.iter().filter(|bundle| {
            let comes_with =
                |identity: &&Identity| identity.federates_with.includes(bundle.trust_domain());
            identities.iter().any(comes_with)
        });
        Some(View {
            svids: svids.collect(),
            identities: identities
                .iter()
                .map(|identity| Named {
                    id: identity.id.clone(),
                    hint: identity.hint.clone(),
                    tokens: identity.tokens.clone(),
                })
                .collect(),
            own: Arc::clone(&self.own),
            federated: federated.cloned().collect(),
        })
    }

    /// What to look at next to tell what `caller` may have, of whom `seen` is known; `None` when that is enough. What is known
    /// already and excludes it is not looked behind: contents take time to read.
    pub(crate) fn asks_for(&self, caller: &Caller, seen: Look) -> Option<Look> {
        let identities = self.identities.iter();
        let next = identities.filter_map(|identity| identity.entitled.asks_for(caller, seen));
        next.min()
    }
}

impl View {
    /// Whether `other` says nothing about certificates that this does not: the same ones and bundles, or no certificate, as
    /// a workload knows when the one it has ends.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        if other.svids.is_empty() {
            return true;
        }
        let same_svid =
            |(a, b): (&Svid, &Svid)| Arc::ptr_eq(&a.portable, &b.portable) && a.hint == b.hint;
        self.svids.len() == other.svids.len()
            && self.svids.iter().zip(&other.svids).all(same_svid)
            && self.has_same_authorities(other)
    }

    /// Our own and those of others, each on its own.
    pub(crate) fn bundles(&self) -> impl Iterator<Item = &Arc<TrustBundle>> {
        std::iter::once(&self.own).chain(&self.federated)
    }

    pub(crate) fn has_same_bundles(&self, other: &Self) -> bool {
        self.own == other.own && self.federated == other.federated
    }

    /// Whether certificates are verified as before: a new key for tokens is no reason to send keys of certificates again.
    pub(crate) fn has_same_authorities(&self, other: &Self) -> bool {
        let said = |bundle: &Arc<TrustBundle>| {
            let domain = bundle.trust_domain().clone();
            (domain, bundle.authorities().to_vec())
        };
        self.bundles().map(said).eq(other.bundles().map(said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::{Inode, Process};

    /// Otherwise whoever can connect has a gigabyte read with each call.
    #[test]
    fn no_more_of_a_caller_is_looked_at_than_decides() {
        let digest = format!("unix:sha256:{}", "ab".repeat(32));
        let caller = |path: Option<&str>| Caller {
            uid: 1000,
            gid: 100,
            process: path.map(|path| Process {
                path: path.into(),
                inode: Inode {
                    device: 1,
                    number: 1,
                },
                sha256: None,
                parent: None,
            }),
        };
        let (unseen, app, other) = (caller(None), caller(Some("/app")), caller(Some("/other")));
        for (selectors, at_first, of_app, of_other) in [
            (&["unix:uid:1000"][..], None, None, None),
            (&["unix:uid:1", &digest], None, None, None),
            (
                &["unix:uid:1000", "unix:path:/app"],
                Some(Look::Program),
                None,
                None,
            ),
            (
                &["unix:path:/app", &digest],
                Some(Look::Program),
                Some(Look::Contents),
                None,
            ),
            (
                &[&digest],
                Some(Look::Contents),
                Some(Look::Contents),
                Some(Look::Contents),
            ),
        ] {
            let selectors = selectors.iter().map(|text| text.parse().unwrap());
            let entitled = Entitled::Selected(selectors.collect());
            assert_eq!(
                entitled.asks_for(&unseen, Look::User),
                at_first,
                "{entitled:?}"
            );
            assert_eq!(
                entitled.asks_for(&app, Look::Program),
                of_app,
                "{entitled:?}"
            );
            assert_eq!(
                entitled.asks_for(&other, Look::Program),
                of_other,
                "{entitled:?}"
            );
            assert_eq!(entitled.asks_for(&app, Look::Contents), None);
        }
        assert_eq!(Entitled::Admitted.asks_for(&unseen, Look::User), None);
    }
}
