//! What the CA's entries say of an identity besides its certificate.

use crate::proto;
use identity::TrustDomain;
use std::collections::BTreeSet;

/// On what terms an identity was given. The default is that of one without an entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registration {
    /// What it is for, for a workload that has several; empty when nothing is said.
    pub hint: String,
    /// Whose bundles come with it; `None`: all that the CA federates with.
    pub federates_with: Option<BTreeSet<TrustDomain>>,
}

impl From<proto::Registration> for Registration {
    /// What is no name of a trust domain names none.
    fn from(message: proto::Registration) -> Self {
        let named = |listed: proto::FederatesWith| {
            let names = listed.trust_domains.iter();
            names
                .filter_map(|name| TrustDomain::parse(name).ok())
                .collect()
        };
        Self {
            hint: message.hint,
            federates_with: message.federates_with.map(named),
        }
    }
}
