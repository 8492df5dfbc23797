//! The audit records for reading: what `tipstaff ca audit list` shows.

use super::Event;
use crate::inspect::{rfc3339, rfc3339_ms};
use crate::store::sql::{self, Row, values};
use crate::store::{self, Database, StoreError};
use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt;

/// Fields that hold a time in seconds since the Unix epoch.
const TIMES: [&str; 3] = ["not_after", "expires_at", "expired_by"];

/// One audit record. Times are RFC 3339.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    pub seq: i64,
    pub time: String,
    /// The kind of the event, such as `issued` or `lineage_frozen`; or `unreadable`, of which [`super::verify`] says more.
    pub kind: String,
    pub fields: Map<String, Value>,
}

/// The audit records from number `from_seq` on (the first is 1), oldest first, at most `limit`. As they are stored:
/// whether they hold together is for [`super::verify`] to say.
///
/// # Errors
/// When the database cannot be read.
pub fn records(
    database: impl Into<Database>,
    from_seq: i64,
    limit: u32,
) -> Result<Vec<Record>, StoreError> {
    store::read(&database.into(), |transaction| {
        let rows = transaction.query(
            "SELECT seq, time_ms, event FROM audit WHERE seq >= $1 ORDER BY seq LIMIT $2",
            values![from_seq, limit],
        )?;
        rows.iter().map(Record::of).collect()
    })
}

impl Record {
    fn of(row: &Row) -> sql::Result<Self> {
        let event: String = row.get(2).unwrap_or_default();
        let event = serde_json::from_str::<Event>(&event).and_then(serde_json::to_value);
        let mut fields = match event {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        let kind = match fields.remove("kind") {
            Some(Value::String(kind)) => kind,
            _ => "unreadable".to_owned(),
        };
        for name in TIMES {
            if let Some(value) = fields.get_mut(name)
                && let Some(seconds) = value.as_i64()
            {
                *value = Value::String(rfc3339(seconds));
            }
        }
        Ok(Self {
            seq: row.get(0)?,
            time: rfc3339_ms(row.get(1)?),
            kind,
            fields,
        })
    }
}

/// One line. Texts are quoted as in JSON, so that none passes for another field or record.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seq, time, kind, ..
        } = self;
        write!(f, "{seq}  {time}  {kind}")?;
        self.fields
            .iter()
            .try_for_each(|(name, value)| write!(f, "  {name}={value}"))
    }
}
