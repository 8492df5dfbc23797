//! The way to one of several endpoints for a connection that brings no requests with it: opaque TCP, and bytes out of the
//! mesh. Requests have [`balance`](super::balance), which remembers how each endpoint is.

use crate::config::Destination;
use crate::discovery::{Following, Member};
use crate::error::ConnectError;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Endpoints that one connection is tried at.
const TRIES: usize = 4;

/// Has `connect` connect to the next endpoint in `turn`, or to the first after it that can be reached; those of a lower
/// priority come later. All of it together, finding the endpoints included, takes no longer than `limit`: each try has half of
/// what is left while another may follow.
///
/// # Errors
/// None is known, or that of the last try.
pub(crate) async fn reach<T, F>(
    endpoints: &Following,
    turn: usize,
    limit: Duration,
    connect: impl FnMut(Destination) -> F,
) -> Result<T, ConnectError>
where
    F: Future<Output = Result<T, ConnectError>>,
{
    let until = Instant::now() + limit;
    let members = endpoints.known(limit).await?;
    one_of(in_turn(&members, turn), until, connect).await
}

fn in_turn(members: &[Member], turn: usize) -> Vec<Destination> {
    let mut members: Vec<&Member> = members.iter().collect();
    let first = turn % members.len().max(1);
    members.rotate_left(first);
    members.sort_by_key(|member| member.priority);
    let destinations = members.into_iter().take(TRIES);
    destinations
        .map(|member| Destination::from(member.address.clone()))
        .collect()
}

async fn one_of<T, F>(
    destinations: Vec<Destination>,
    until: Instant,
    mut connect: impl FnMut(Destination) -> F,
) -> Result<T, ConnectError>
where
    F: Future<Output = Result<T, ConnectError>>,
{
    let mut failure = ConnectError::Unstable;
    let mut others = destinations.len();
    for destination in destinations {
        others -= 1;
        let left = until.saturating_duration_since(Instant::now());
        let limit = if others > 0 { left / 2 } else { left };
        let connected = timeout(limit, connect(destination)).await;
        match connected.unwrap_or(Err(ConnectError::Timeout(limit))) {
            Ok(connected) => return Ok(connected),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoint;
    use std::future::pending;

    const LIMIT: Duration = Duration::from_secs(8);

    /// With these priorities, at ports that begin with 0.
    fn members(priorities: &[u16]) -> Vec<Member> {
        let members = priorities.iter().zip(0..).map(|(priority, port)| Member {
            priority: *priority,
            ..Member::at(Endpoint {
                host: "192.0.2.1".to_owned(),
                port,
            })
        });
        members.collect()
    }

    fn ports(destinations: &[Destination]) -> Vec<u16> {
        let port = |destination: &Destination| match destination {
            Destination::Tcp(endpoint) => endpoint.port,
            Destination::Unix(_) => panic!("expected an address"),
        };
        destinations.iter().map(port).collect()
    }

    #[test]
    fn each_turn_begins_with_another_endpoint_of_the_lowest_priority() {
        let members = members(&[1, 0, 0, 1, 2, 0]);
        for (turn, expected) in [
            (0, [1, 2, 5, 0]),
            (1, [1, 2, 5, 3]),
            (2, [2, 5, 1, 3]),
            (3, [5, 1, 2, 3]),
            (6, [1, 2, 5, 0]),
        ] {
            assert_eq!(ports(&in_turn(&members, turn)), expected, "turn {turn}");
        }
        assert!(in_turn(&[], 3).is_empty());
    }

    /// The time is the clock's of the test: what is asserted is the sum of the waits.
    #[tokio::test(start_paused = true)]
    async fn endpoints_that_are_silent_take_the_time_for_one_connection_together() {
        let begun = Instant::now();
        let mut tried = Vec::new();
        let silent = in_turn(&members(&[0; 9]), 0);
        let connected = one_of(silent, begun + LIMIT, |_| {
            tried.push(begun.elapsed().as_secs());
            pending::<Result<(), ConnectError>>()
        });
        let error = connected.await.unwrap_err();
        assert!(matches!(error, ConnectError::Timeout(_)), "{error}");
        assert_eq!(tried, [0, 4, 6, 7]);
        assert_eq!(begun.elapsed().as_secs(), LIMIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_endpoint_left_has_the_time_that_those_before_it_did_not_take() {
        let begun = Instant::now();
        let both = in_turn(&members(&[0, 1]), 0);
        let connected = one_of(both, begun + LIMIT, |destination| async move {
            match ports(&[destination])[..] {
                [0] => Err(ConnectError::Loop),
                _ => {
                    tokio::time::sleep(LIMIT * 9 / 10).await;
                    Ok("connected")
                }
            }
        });
        assert_eq!(connected.await.unwrap(), "connected");
    }
}
