//! Registration entries.

use super::sql::{self, Row, values};
use super::writer::Batch;
use super::{Store, StoreError};
use crate::entries::{Entry, EntryError, MAX_ENTRIES, MAX_ENTRIES_PER_ID, Written};
use crate::ledger::Event;
use identity::SpiffeId;
use std::fmt;
use std::time::SystemTime;

/// Who changes an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Author {
    /// Over the network.
    Administrator(SpiffeId),
    /// By the command line, on the database.
    Operator,
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Administrator(id) => id.fmt(f),
            Self::Operator => f.write_str("operator"),
        }
    }
}

/// Why an entry is not made. Safe to show to the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateEntryError {
    #[error(transparent)]
    Entry(#[from] EntryError),
    #[error(
        "expected no entry for this identity and these selectors, found {name} with another life, hint, other host names or federation: delete it first"
    )]
    Differs { name: String },
    #[error("expected at most {MAX_ENTRIES} entries, and {MAX_ENTRIES_PER_ID} for one identity")]
    Full,
}

impl Store {
    /// Keeps `entry`; gives whether it is new. Audited.
    ///
    /// # Errors
    /// The inner error says why it cannot be; the outer one that nothing could be recorded.
    pub async fn create_entry(
        &self,
        entry: Entry,
        author: Author,
        now: SystemTime,
    ) -> Result<Result<bool, CreateEntryError>, StoreError> {
        self.writer
            .write(move |batch| create(batch, &entry, &author, now))
            .await
    }

    /// Forgets the entry of this name; gives whether it was there. Audited.
    ///
    /// # Errors
    /// When it could not be recorded; then the entry stays.
    pub async fn delete_entry(
        &self,
        name: String,
        author: Author,
        now: SystemTime,
    ) -> Result<bool, StoreError> {
        self.writer
            .write(move |batch| {
                let deleted = batch.first(
                    "DELETE FROM entry WHERE name = $1 RETURNING spiffe_id",
                    values![&name],
                )?;
                let Some(row) = deleted else {
                    return Ok(false);
                };
                let event = Event::EntryDeleted {
                    entry: name,
                    spiffe_id: row.get(0)?,
                    by: author.to_string(),
                };
                batch.audit(now, &event)?;
                Ok(true)
            })
            .await
    }

    /// At most `limit` entries after the name `after`, in the order of their names.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn entries(&self, after: String, limit: u32) -> Result<Vec<Entry>, StoreError> {
        self.writer
            .write(move |batch| {
                let rows = batch.query(
                    "SELECT document FROM entry WHERE name > $1 ORDER BY name LIMIT $2",
                    values![&after, limit],
                )?;
                rows.iter()
                    .filter_map(|row| read(row).transpose())
                    .collect()
            })
            .await
    }

    /// The entries that give `id`.
    pub(crate) async fn entries_for(&self, id: &SpiffeId) -> Result<Vec<Entry>, StoreError> {
        let id = id.clone();
        self.reader
            .read(move |transaction| {
                let rows = transaction.query(
                    "SELECT document FROM entry WHERE spiffe_id = $1 LIMIT $2",
                    values![id.as_str(), MAX_ENTRIES_PER_ID],
                )?;
                rows.iter()
                    .filter_map(|row| read(row).transpose())
                    .collect()
            })
            .await
    }
}

/// `None` for what this program does not understand: a later one has written it, and it gives nothing here.
fn read(row: &Row) -> sql::Result<Option<Entry>> {
    let document: String = row.get(0)?;
    let entry = serde_json::from_str::<Written>(&document)
        .ok()
        .and_then(|written| Entry::try_from(written).ok());
    if entry.is_none() {
        tracing::warn!(document, "an entry cannot be read and gives nothing");
    }
    Ok(entry)
}

fn create(
    batch: &mut Batch<'_, '_>,
    entry: &Entry,
    author: &Author,
    now: SystemTime,
) -> sql::Result<Result<bool, CreateEntryError>> {
    let (name, id) = (entry.name(), entry.id().as_str());
    let document =
        serde_json::to_string(&entry.to_written()).expect("an entry is texts and numbers");
    let present = batch.first("SELECT document FROM entry WHERE name = $1", values![&name])?;
    if let Some(present) = present {
        let same = present.get::<String>(0)? == document;
        return Ok(if same {
            Ok(false)
        } else {
            Err(CreateEntryError::Differs { name })
        });
    }
    let all: u32 = batch.only("SELECT count(*) FROM entry", &[])?.get(0)?;
    let of_id = "SELECT count(*) FROM entry WHERE spiffe_id = $1";
    let of_id: u32 = batch.only(of_id, values![id])?.get(0)?;
    if all >= MAX_ENTRIES || of_id >= MAX_ENTRIES_PER_ID {
        return Ok(Err(CreateEntryError::Full));
    }
    batch.execute(
        "INSERT INTO entry (name, spiffe_id, document, created_at) VALUES ($1, $2, $3, $4)",
        values![&name, id, &document, now],
    )?;
    let selectors = entry.selectors().iter().map(ToString::to_string).collect();
    let event = Event::EntryCreated {
        entry: name,
        spiffe_id: id.to_owned(),
        selectors,
        by: author.to_string(),
    };
    batch.audit(now, &event)?;
    Ok(Ok(true))
}
