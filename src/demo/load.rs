//! Load through the sidecars while their identities rotate.

use super::client::{Call, Connection};
use std::time::{Duration, Instant};

/// Kept apart from the rate so that a slow answer on one connection does not hold up the others.
const CONNECTIONS: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) failed: u64,
    /// The first failure, in words.
    pub(super) example: Option<String>,
}

/// Sends `call` at about `per_second` for `duration` and counts everything that is not a 200.
pub(super) async fn run(call: Call<'static>, per_second: u32, duration: Duration) -> Tally {
    let end = Instant::now() + duration;
    let pause = Duration::from_secs(1) * CONNECTIONS / per_second;
    let workers: Vec<_> = (0..CONNECTIONS)
        .map(|_| tokio::spawn(one_connection(call.clone(), pause, end)))
        .collect();
    let mut total = Tally::default();
    for worker in workers {
        match worker.await {
            Ok(part) => {
                total.sent += part.sent;
                total.failed += part.failed;
                total.example = total.example.or(part.example);
            }
            Err(error) => {
                total.failed += 1;
                total.example = Some(error.to_string());
            }
        }
    }
    total
}

async fn one_connection(call: Call<'static>, pause: Duration, end: Instant) -> Tally {
    let mut tally = Tally::default();
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut connection = None;
    while Instant::now() < end {
        ticks.tick().await;
        tally.sent += 1;
        if let Err(error) = exchange(&call, &mut connection).await {
            connection = None;
            tally.failed += 1;
            tally.example.get_or_insert(format!("{error:#}"));
        }
    }
    tally
}

async fn exchange(call: &Call<'_>, kept: &mut Option<Connection>) -> anyhow::Result<()> {
    let connection = match kept {
        Some(connection) => connection,
        None => kept.insert(Connection::open(call.to).await?),
    };
    let reply = connection.send(call).await?;
    anyhow::ensure!(
        reply.status == hyper::StatusCode::OK,
        "{}: {}",
        reply.status,
        reply.body
    );
    if reply
        .header("connection")
        .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    {
        *kept = None;
    }
    Ok(())
}
