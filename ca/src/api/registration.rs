//! What an entry gives with its identity, and what of it a certificate keeps that is renewed by itself.

use super::{Api, Refused, life};
use crate::dns::DnsName;
use crate::entries::Entry;
use crate::proto::{FederatesWith, Registration};
use identity::{Leaf, SpiffeId};
use std::collections::BTreeSet;
use std::time::Duration;

/// What goes with an identity.
#[derive(Debug, Default)]
pub(super) struct Terms {
    /// The longest life.
    pub(super) ttl: Option<Duration>,
    pub(super) dns_names: BTreeSet<DnsName>,
    pub(super) registration: Registration,
    /// Whether entries were looked at: without, what was registered before holds.
    pub(super) is_fresh: bool,
}

impl Terms {
    /// Of whom an attestor knows by name.
    pub(super) fn without_entry() -> Self {
        Self {
            is_fresh: true,
            ..Self::default()
        }
    }

    /// Of a certificate by itself.
    pub(super) fn alone(ttl: Option<Duration>) -> Self {
        Self {
            ttl,
            ..Self::default()
        }
    }
}

impl From<&Entry> for Terms {
    fn from(entry: &Entry) -> Self {
        let trust_domains = entry.federates_with().iter().map(ToString::to_string);
        Self {
            ttl: entry.ttl(),
            dns_names: entry.dns_names().clone(),
            registration: Registration {
                hint: entry.hint().unwrap_or_default().to_owned(),
                federates_with: Some(FederatesWith {
                    trust_domains: trust_domains.collect(),
                }),
            },
            is_fresh: true,
        }
    }
}

impl Api {
    /// Those of files, then those of the store.
    pub(super) async fn entries_for(&self, id: &SpiffeId) -> Result<Vec<Entry>, Refused> {
        let stored = self.authority.store().entries_for(id).await;
        let listed = self.entries.iter().filter(|entry| entry.id() == id);
        Ok(listed
            .cloned()
            .chain(stored.map_err(Refused::Store)?)
            .collect())
    }

    /// Of a certificate that an attestor's word stands behind and that is renewed without new evidence: the host names that it
    /// has and that some entry still gives its identity.
    pub(super) async fn kept(&self, svid: &Leaf) -> Result<Terms, Refused> {
        let store = self.authority.store();
        let mut dns_names = store
            .dns_names_of(&svid.serial)
            .await
            .map_err(Refused::Store)?;
        if !dns_names.is_empty() {
            let all = self.entries_for(&svid.id).await?;
            dns_names.retain(|name| all.iter().any(|entry| entry.dns_names().contains(name)));
        }
        Ok(Terms {
            dns_names,
            ..Terms::alone(life(svid))
        })
    }
}
