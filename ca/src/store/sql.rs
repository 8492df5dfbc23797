//! What a statement takes and gives, the same for every database.
//!
//! A statement is written once and understood by SQLite and PostgreSQL alike: parameters are `$1`, `$2`, ...; columns
//! are named, in `INSERT` too, so that a migration may add one; numbers are 64 bits wide; `ON CONFLICT` and
//! `RETURNING` are there, `INSERT OR ...`, `rowid` and functions beyond `count`, `min`, `max` and `coalesce` are not.

use super::unix_seconds;
use crate::revoke::RevokeError;
use std::borrow::Cow;
use std::time::{Duration, SystemTime};

#[cfg(test)]
mod tests;

pub(crate) type Result<T> = std::result::Result<T, DatabaseError>;

/// The values of a statement's parameters, in the order of their numbers.
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$($crate::store::sql::Value::from($value)),*] };
}
pub(crate) use values;

/// A parameter, or what a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Null,
    Integer(i64),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
}

impl Value<'_> {
    pub(super) fn to_owned(&self) -> Value<'static> {
        match self {
            Self::Null => Value::Null,
            Self::Integer(number) => Value::Integer(*number),
            Self::Text(text) => Value::Text(text.to_string().into()),
            Self::Bytes(bytes) => Value::Bytes(bytes.to_vec().into()),
        }
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<u32> for Value<'_> {
    fn from(number: u32) -> Self {
        Self::Integer(number.into())
    }
}

/// No number of ours comes near the end of what can be stored.
impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Self::Integer(value.into())
    }
}

/// Seconds since the Unix epoch.
impl From<SystemTime> for Value<'_> {
    fn from(time: SystemTime) -> Self {
        Self::Integer(unix_seconds(time))
    }
}

/// Whole seconds.
impl From<Duration> for Value<'_> {
    fn from(duration: Duration) -> Self {
        duration.as_secs().into()
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text.into())
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text.into())
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Value<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Bytes(bytes.as_slice().into())
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// One row of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row(Vec<Value<'static>>);

impl Row {
    pub(super) fn new(values: Vec<Value<'static>>) -> Self {
        Self(values)
    }

    /// The value in a column, the first of which is 0.
    ///
    /// # Errors
    /// When there is no such column or it holds something else, as only tampering or a fault of ours can cause.
    pub(crate) fn get<T: FromValue>(&self, column: usize) -> Result<T> {
        let value = self.0.get(column);
        value.and_then(T::from_value).ok_or(DatabaseError::Column {
            column,
            expected: T::EXPECTED,
        })
    }
}

/// What a column can be read as.
pub(crate) trait FromValue: Sized {
    const EXPECTED: &'static str;

    fn from_value(value: &Value<'static>) -> Option<Self>;
}

impl FromValue for i64 {
    const EXPECTED: &'static str = "a number";

    fn from_value(value: &Value<'static>) -> Option<Self> {
        match value {
            Value::Integer(number) => Some(*number),
            _ => None,
        }
    }
}

impl FromValue for u64 {
    const EXPECTED: &'static str = "a number from 0";

    fn from_value(value: &Value<'static>) -> Option<Self> {
        i64::from_value(value)?.try_into().ok()
    }
}

impl FromValue for u32 {
    const EXPECTED: &'static str = "a number of 32 bits";

    fn from_value(value: &Value<'static>) -> Option<Self> {
        i64::from_value(value)?.try_into().ok()
    }
}

impl FromValue for bool {
    const EXPECTED: &'static str = "0 or 1";

    fn from_value(value: &Value<'static>) -> Option<Self> {
        match value {
            Value::Integer(0) => Some(false),
            Value::Integer(1) => Some(true),
            _ => None,
        }
    }
}

impl FromValue for Duration {
    const EXPECTED: &'static str = "a number of seconds";

    fn from_value(value: &Value<'static>) -> Option<Self> {
        u64::from_value(value).map(Self::from_secs)
    }
}

impl FromValue for String {
    const EXPECTED: &'static str = "a text";

    fn from_value(value: &Value<'static>) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text.clone().into_owned()),
            _ => None,
        }
    }
}

impl FromValue for Vec<u8> {
    const EXPECTED: &'static str = "bytes";

    fn from_value(value: &Value<'static>) -> Option<Self> {
        match value {
            Value::Bytes(bytes) => Some(bytes.clone().into_owned()),
            _ => None,
        }
    }
}

impl<const N: usize> FromValue for [u8; N] {
    const EXPECTED: &'static str = "a fixed number of bytes";

    fn from_value(value: &Value<'static>) -> Option<Self> {
        match value {
            Value::Bytes(bytes) => bytes.as_ref().try_into().ok(),
            _ => None,
        }
    }
}

impl<T: FromValue> FromValue for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn from_value(value: &Value<'static>) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

/// What went wrong in or on the way to the database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    /// Tried a moment ago, or lost in the middle of a transaction.
    #[error("no connection to PostgreSQL")]
    Away,
    #[error("expected an answer from PostgreSQL within {0:?}")]
    Deadline(Duration),
    /// Brought further by a newer program while this one ran, or set back.
    #[error(
        "the database has become version {found}, which takes a program of version {oldest} or later"
    )]
    Version { found: u32, oldest: u32 },
    /// What was to be recorded would make a list that sidecars do not take.
    #[error(transparent)]
    Revoke(RevokeError),
    #[error("cannot wait for PostgreSQL")]
    Runtime(#[source] std::io::Error),
    #[error("expected {expected} in column {column} of the answer")]
    Column {
        column: usize,
        expected: &'static str,
    },
}
