//! How many certificates there may be, and whose turn it is.

use super::{Api, Refused};
use crate::admission::{Admission, Source};
use crate::authority::{Issued, Request as IssueOrder};
use crate::proto::LedgerHead;
use crate::turns::{Bounds, Due, Turn};
use identity::SpiffeId;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

#[cfg(test)]
mod tests;

/// How many certificates there may be, and at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// For one identity, in a minute.
    pub(crate) certificates_per_minute: u32,
    pub(crate) certificates_per_minute_per_address: u32,
    pub(crate) turns: Bounds,
}

/// What a call for a certificate says of its caller, whatever it asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking<'c> {
    pub(super) address: IpAddr,
    pub(super) due: Due,
    pub(super) ledger_head: Option<&'c LedgerHead>,
}

/// A call that has its turn.
#[derive(Debug)]
pub(super) struct Admitted<'c> {
    asking: Asking<'c>,
    turn: Turn,
}

impl Api {
    /// Waits until no other is due sooner than the caller, who says to be `id`. Before the first look into the store: there all
    /// wait in the order in which they came.
    pub(super) async fn take_turn<'c>(
        &self,
        id: &SpiffeId,
        asking: Asking<'c>,
    ) -> Result<Admitted<'c>, Refused> {
        // Who may have no certificate now does not stand in the line for one.
        self.within_pace(&Source::Identity(id.clone()))?;
        self.within_address_pace(&Source::address(asking.address))?;
        let turn = self.turns.take(asking.due).await;
        let turn = turn.map_err(|turned_away| Refused::Overloaded {
            retry_after: turned_away.retry_after,
        })?;
        Ok(Admitted { asking, turn })
    }

    /// At the pace of its identity and of its address.
    pub(super) async fn issue_in_turn(
        &self,
        order: IssueOrder,
        Admitted { asking, turn }: Admitted<'_>,
    ) -> Result<Issued, Refused> {
        let mut charge = self.charge(&order.id, asking.address)?;
        if let Some(head) = asking.ledger_head {
            self.hear_of(head, &order.id).await?;
        }
        // From here on there may be a record even if the caller goes away.
        charge.is_spent = true;
        let issued = self.authority.issue(order).await;
        drop(turn);
        charge.is_spent = issued.is_ok();
        issued.map_err(Refused::Issue)
    }

    /// Takes one certificate from what the identity and the address may have.
    fn charge(&self, id: &SpiffeId, address: IpAddr) -> Result<Charge<'_>, Refused> {
        let identity = Source::Identity(id.clone());
        let address = Source::address(address);
        self.keep_pace(&identity)?;
        if let Err(refused) = self.within_address_pace(&address) {
            self.pace.give_back(&identity);
            return Err(refused);
        }
        self.address_pace.charge(&address, Instant::now());
        Ok(Charge {
            api: self,
            identity,
            address,
            is_spent: false,
        })
    }

    /// Certificates and tokens alike leave records, each at a pace of their own.
    pub(super) fn keep_pace(&self, source: &Source) -> Result<(), Refused> {
        self.within_pace(source)?;
        self.pace.charge(source, Instant::now());
        Ok(())
    }

    fn within_pace(&self, source: &Source) -> Result<(), Refused> {
        let admitted = self.pace.admit(source, Instant::now());
        admitted.map_err(|retry_after| Refused::TooManyCertificates { retry_after })
    }

    fn within_address_pace(&self, address: &Source) -> Result<(), Refused> {
        let admitted = self.address_pace.admit(address, Instant::now());
        admitted.map_err(|retry_after| Refused::TooManyForAddress { retry_after })
    }
}

/// What one certificate costs. Given back when dropped without one: whoever is turned away, or has one certificate of a frozen
/// lineage, would hold up the identity's others, and a database that is down all of an address.
struct Charge<'a> {
    api: &'a Api,
    identity: Source,
    address: Source,
    is_spent: bool,
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        if !self.is_spent {
            self.api.pace.give_back(&self.identity);
            self.api.address_pace.give_back(&self.address);
        }
    }
}

pub(super) fn at_most(per_minute: u32) -> Arc<Admission> {
    Arc::new(Admission::new(per_minute, Instant::now()))
}
