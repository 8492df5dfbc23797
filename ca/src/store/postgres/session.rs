//! A connection that is made when it is needed, and made again when it was lost.

use super::Postgres;
use crate::store::session::Access;
use crate::store::sql::{DatabaseError, Result, Row, Value};
use bytes::BytesMut;
use futures_util::future::maybe_done;
use futures_util::poll;
use std::collections::HashMap;
use std::error::Error;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_postgres::error::Severity;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Statement};

/// For one statement with its way there and back. The server ends it earlier.
const DEADLINE: Duration = Duration::from_secs(10);
/// How many statements leave together at most, so that the deadline is one for a few.
const MAX_AHEAD: usize = 64;
/// Between attempts to connect, doubled up to the second.
const RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];

/// What every connection is set to. A replica that stops in the middle of a transaction holds the others up for the
/// time that it may idle there. Commits are synced even where the database's owner prefers speed.
const SETTINGS: &str = "
    SET statement_timeout = '8s';
    SET lock_timeout = '8s';
    SET idle_in_transaction_session_timeout = '8s';
    SELECT set_config('synchronous_commit', 'on', false)
        WHERE current_setting('synchronous_commit') = 'off'";

/// The lock of those who write; its number says `tipstaff`. What was committed before it was given has to be seen
/// after it, which a snapshot from before would not: the database's own default may be another level.
const BEGIN_WRITE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT pg_advisory_xact_lock(8388359422130349670)";
const BEGIN_READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A connection of one thread, which must not be one that runs tasks: every call blocks it.
#[derive(Debug)]
pub(crate) struct Session {
    server: Postgres,
    runtime: Runtime,
    link: Option<Link>,
    /// When to try again, and how long to wait after that.
    retry: Option<(Instant, Duration)>,
}

struct Link {
    client: Client,
    statements: HashMap<&'static str, Statement>,
    /// Leave with the next statement, in their order.
    ahead: Vec<(Statement, Vec<Value<'static>>)>,
    /// Ends with the connection.
    driver: JoinHandle<()>,
}

impl Session {
    /// Connects at the first transaction.
    pub(in crate::store) fn new(server: Postgres) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build();
        Ok(Self {
            server,
            runtime: runtime.map_err(DatabaseError::Runtime)?,
            link: None,
            retry: None,
        })
    }

    pub(in crate::store) fn begin(&mut self, access: Access) -> Result<()> {
        let sql = match access {
            Access::Read => BEGIN_READ,
            Access::Write => BEGIN_WRITE,
        };
        let kept = self.link.is_some();
        let begun = self.run_script(sql);
        // The server may have gone and come back since the last transaction. Nothing has been done in this one.
        let begun = match begun {
            Err(_) if kept && self.link.is_none() => self.run_script(sql),
            begun => begun,
        };
        if begun.is_err() {
            self.hang_up();
        }
        begun
    }

    /// Ends the transaction, whose connection must not be replaced by another: one that was lost has ended it. The server
    /// answers a commit after a failed statement as if all were well, and rolls back; that statement's error counts.
    pub(in crate::store) fn commit(&mut self) -> Result<()> {
        match self.link {
            Some(_) => self.run_script("COMMIT"),
            None => Err(DatabaseError::Away),
        }
    }

    pub(in crate::store) fn roll_back(&mut self) -> Result<()> {
        let link = self.link.as_mut().ok_or(DatabaseError::Away)?;
        link.ahead.clear();
        self.run_script("ROLLBACK")
    }

    pub(in crate::store) fn run_script(&mut self, sql: &str) -> Result<()> {
        let (runtime, link) = self.link()?;
        let ahead = std::mem::take(&mut link.ahead);
        let done = after(ahead, &link.client, link.client.batch_execute(sql));
        let done = runtime.block_on(within_deadline(done));
        self.keep_if_usable(done)
    }

    /// Has a statement leave with the next one that is waited for, and ahead of it: one way there and back for both.
    pub(in crate::store) fn write(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<()> {
        let (runtime, link) = self.link()?;
        let prepared = runtime.block_on(within_deadline(link.prepare(sql)));
        let statement = self.keep_if_usable(prepared)?;
        let (_, link) = self.link()?;
        let values = values.iter().map(Value::to_owned).collect();
        link.ahead.push((statement, values));
        match link.ahead.len() < MAX_AHEAD {
            true => Ok(()),
            false => self.run_script(""),
        }
    }

    pub(in crate::store) fn execute(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<u64> {
        let (runtime, link) = self.link()?;
        let done = runtime.block_on(within_deadline(async {
            let statement = link.prepare(sql).await?;
            let ahead = std::mem::take(&mut link.ahead);
            let values = parameters(values);
            let done = link.client.execute(&statement, &values);
            after(ahead, &link.client, done).await
        }));
        self.keep_if_usable(done)
    }

    pub(in crate::store) fn query(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>> {
        let (runtime, link) = self.link()?;
        let found = runtime.block_on(within_deadline(async {
            let statement = link.prepare(sql).await?;
            let ahead = std::mem::take(&mut link.ahead);
            let values = parameters(values);
            let found = link.client.query(&statement, &values);
            after(ahead, &link.client, found).await
        }));
        let rows = self.keep_if_usable(found)?;
        rows.iter()
            .map(|row| {
                let values = (0..row.len()).map(|column| row.try_get(column));
                Ok(Row::new(values.collect::<std::result::Result<_, _>>()?))
            })
            .collect()
    }

    /// The connection, or the reason why there is none: soon after an attempt failed that is said without another.
    fn link(&mut self) -> Result<(&Runtime, &mut Link)> {
        if self.link.is_none() {
            let now = Instant::now();
            let pause = match self.retry {
                Some((due, _)) if now < due => return Err(DatabaseError::Away),
                Some((_, pause)) => (pause * 2).min(RETRY[1]),
                None => RETRY[0],
            };
            let made = self
                .runtime
                .block_on(within_deadline(Link::make(&self.server)));
            self.retry = made.is_err().then_some((now + pause, pause));
            self.link = Some(made?);
        }
        let link = self.link.as_mut().ok_or(DatabaseError::Away)?;
        Ok((&self.runtime, link))
    }

    /// A connection on which something was lost is not used again: nobody knows in which state the server is.
    fn keep_if_usable<T>(&mut self, done: Result<T>) -> Result<T> {
        let broken = match &done {
            Ok(_) => false,
            Err(DatabaseError::Postgres(error)) => match error.as_db_error() {
                Some(said) => matches!(
                    said.parsed_severity(),
                    Some(Severity::Fatal | Severity::Panic)
                ),
                None => true,
            },
            Err(_) => true,
        };
        if broken {
            self.hang_up();
        }
        done
    }

    /// At once, as a transaction that the server still believes in holds up the other replicas.
    fn hang_up(&mut self) {
        if let Some(link) = self.link.take() {
            link.driver.abort();
            // Cancelled, as just asked for, or ended before.
            let _ = self.runtime.block_on(link.driver);
        }
    }
}

impl Link {
    async fn make(server: &Postgres) -> std::result::Result<Self, tokio_postgres::Error> {
        let (client, connection) = server.config.connect(server.tls.clone()).await?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::warn!(%error, "connection to PostgreSQL lost");
            }
        });
        let link = Self {
            client,
            statements: HashMap::new(),
            ahead: Vec::new(),
            driver,
        };
        link.client.batch_execute(SETTINGS).await?;
        Ok(link)
    }

    async fn prepare(
        &mut self,
        sql: &'static str,
    ) -> std::result::Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

/// Sends what goes ahead and then `last`, and waits for all of it. The first error counts: what comes after it in a
/// transaction fails for it.
async fn after<T>(
    ahead: Vec<(Statement, Vec<Value<'static>>)>,
    client: &Client,
    last: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
) -> std::result::Result<T, tokio_postgres::Error> {
    let mut answers: Vec<_> = ahead
        .iter()
        .map(|(statement, values)| {
            let done = async move { client.execute(statement, &parameters(values)).await };
            Box::pin(maybe_done(done))
        })
        .collect();
    for answer in &mut answers {
        // The first poll sends.
        let _ = poll!(answer);
    }
    let mut last = pin!(maybe_done(last));
    let _ = poll!(last.as_mut());
    for mut answer in answers {
        answer.as_mut().await;
        answer.as_mut().take_output().transpose()?;
    }
    last.as_mut().await;
    last.take_output().expect("it was waited for just now")
}

async fn within_deadline<T>(
    work: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(DatabaseError::Deadline(DEADLINE)),
    }
}

fn parameters<'a>(values: &'a [Value<'_>]) -> Vec<&'a (dyn ToSql + Sync)> {
    values.iter().map(|value| value as _).collect()
}

impl ToSql for Value<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn Error + Sync + Send>> {
        match (self, ty) {
            (Self::Null, _) => Ok(IsNull::Yes),
            (Self::Integer(number), &Type::INT8) => number.to_sql(ty, out),
            (Self::Text(text), &Type::TEXT) => text.as_ref().to_sql(ty, out),
            (Self::Bytes(bytes), &Type::BYTEA) => bytes.as_ref().to_sql(ty, out),
            _ => Err(format!("expected a value for a parameter of type {ty}").into()),
        }
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT8 | Type::TEXT | Type::BYTEA)
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Value<'static> {
    fn from_sql(
        ty: &Type,
        raw: &'a [u8],
    ) -> std::result::Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(match *ty {
            Type::BOOL => Self::Integer(bool::from_sql(ty, raw)?.into()),
            Type::INT4 => Self::Integer(i32::from_sql(ty, raw)?.into()),
            Type::INT8 => Self::Integer(i64::from_sql(ty, raw)?),
            Type::TEXT => Self::Text(String::from_sql(ty, raw)?.into()),
            _ => Self::Bytes(Vec::from_sql(ty, raw)?.into()),
        })
    }

    fn from_sql_null(_: &Type) -> std::result::Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(ty: &Type) -> bool {
        matches!(
            *ty,
            Type::BOOL | Type::INT4 | Type::INT8 | Type::TEXT | Type::BYTEA
        )
    }
}
