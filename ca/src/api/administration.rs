//! The calls of administrators: who asks -> may they -> change, under their name.

use super::{Api, Refused};
use crate::entries::{Entry, EntryError, Written, is_name};
use crate::proto;
use crate::proto::administration_server::Administration;
use crate::proto::{
    CreateEntryRequest, CreateEntryResponse, DeleteEntryRequest, DeleteEntryResponse,
    ListEntriesRequest, ListEntriesResponse,
};
use crate::store::{Author, CreateEntryError};
use identity::SpiffeId;
use std::time::SystemTime;
use tonic::{Request, Response, Status};

/// Entries in one reply, of at most some 10 KiB each.
const PAGE: u32 = 256;

impl Api {
    async fn administrator<T>(&self, call: &Request<T>) -> Result<SpiffeId, Status> {
        let (_, svid) = self.authenticated(call)?;
        let svid = &svid.leaf;
        match self.administrators.contains(&svid.id) {
            true => Ok(svid.id.clone()),
            false => Err(self
                .audit(&svid.id, "administer", &Refused::NotAnAdministrator)
                .await),
        }
    }

    async fn create(
        &self,
        author: SpiffeId,
        entry: proto::Entry,
    ) -> Result<(Entry, bool), Refused> {
        let entry = Entry::try_from(Written::from(entry)).map_err(CreateEntryError::Entry);
        let entry = entry.map_err(Refused::Entry)?;
        let trust_domain = self.authority.trust_domain();
        if !entry.id().is_member_of(trust_domain) {
            return Err(Refused::Entry(CreateEntryError::Entry(
                EntryError::Foreign {
                    expected: trust_domain.clone(),
                    found: entry.id().clone(),
                },
            )));
        }
        let store = self.authority.store();
        let author = Author::Administrator(author);
        let created = store
            .create_entry(entry.clone(), author, SystemTime::now())
            .await;
        let created = created.map_err(Refused::Store)?.map_err(Refused::Entry)?;
        Ok((entry, created))
    }

    async fn delete(&self, author: SpiffeId, name: String) -> Result<bool, Refused> {
        if !is_name(&name) {
            return Err(Refused::EntryName);
        }
        let (store, author) = (self.authority.store(), Author::Administrator(author));
        let deleted = store.delete_entry(name, author, SystemTime::now()).await;
        deleted.map_err(Refused::Store)
    }

    async fn page(&self, after: String) -> Result<Vec<Entry>, Refused> {
        if !after.is_empty() && !is_name(&after) {
            return Err(Refused::EntryName);
        }
        let entries = self.authority.store().entries(after, PAGE).await;
        entries.map_err(Refused::Store)
    }
}

#[tonic::async_trait]
impl Administration for Api {
    async fn create_entry(
        &self,
        call: Request<CreateEntryRequest>,
    ) -> Result<Response<CreateEntryResponse>, Status> {
        let author = self.administrator(&call).await?;
        let entry = call.into_inner().entry.unwrap_or_default();
        match self.create(author.clone(), entry).await {
            Ok((entry, created)) => Ok(Response::new(CreateEntryResponse {
                entry: Some((&entry).into()),
                created,
            })),
            Err(refused) => Err(self.audit(&author, "create_entry", &refused).await),
        }
    }

    async fn delete_entry(
        &self,
        call: Request<DeleteEntryRequest>,
    ) -> Result<Response<DeleteEntryResponse>, Status> {
        let author = self.administrator(&call).await?;
        match self.delete(author.clone(), call.into_inner().name).await {
            Ok(deleted) => Ok(Response::new(DeleteEntryResponse { deleted })),
            Err(refused) => Err(self.audit(&author, "delete_entry", &refused).await),
        }
    }

    async fn list_entries(
        &self,
        call: Request<ListEntriesRequest>,
    ) -> Result<Response<ListEntriesResponse>, Status> {
        let caller = self.administrator(&call).await?;
        let entries = match self.page(call.into_inner().after).await {
            Ok(entries) => entries,
            Err(refused) => return Err(self.audit(&caller, "list_entries", &refused).await),
        };
        let last = entries.last().filter(|_| entries.len() >= PAGE as usize);
        Ok(Response::new(ListEntriesResponse {
            next_after: last.map(Entry::name).unwrap_or_default(),
            entries: entries.iter().map(proto::Entry::from).collect(),
        }))
    }
}

impl From<proto::Entry> for Written {
    fn from(entry: proto::Entry) -> Self {
        Self {
            id: entry.spiffe_id,
            selectors: entry.selectors,
            ttl_seconds: (entry.ttl_seconds > 0).then_some(entry.ttl_seconds),
            hint: (!entry.hint.is_empty()).then_some(entry.hint),
            dns_names: entry.dns_names,
            federates_with: entry.federates_with,
            recovery_grace_seconds: (entry.recovery_grace_seconds > 0)
                .then_some(entry.recovery_grace_seconds),
        }
    }
}

impl From<&Entry> for proto::Entry {
    fn from(entry: &Entry) -> Self {
        let written = entry.to_written();
        Self {
            name: entry.name(),
            spiffe_id: written.id,
            selectors: written.selectors,
            ttl_seconds: written.ttl_seconds.unwrap_or_default(),
            hint: written.hint.unwrap_or_default(),
            dns_names: written.dns_names,
            federates_with: written.federates_with,
            recovery_grace_seconds: written.recovery_grace_seconds.unwrap_or_default(),
        }
    }
}
