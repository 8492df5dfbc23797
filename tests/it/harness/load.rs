//! Steady load over keep-alive connections, counting everything that is not a 200.

use super::http::connect;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const CONNECTIONS: u32 = 16;

#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) succeeded: u64,
    pub(crate) failures: Vec<String>,
}

/// Load in the background until [`Load::stop`].
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// About `per_second` requests in all, each the bytes of `request`, for two minutes at most.
    pub(crate) fn start(to: SocketAddr, request: &str, per_second: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let pause = Duration::from_secs(1) * CONNECTIONS / per_second;
        let threads = (0..CONNECTIONS)
            .map(|_| {
                let (stop, request) = (Arc::clone(&stop), request.to_owned());
                std::thread::spawn(move || one_connection(to, &request, pause, &stop))
            })
            .collect();
        Self { stop, threads }
    }

    pub(crate) fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic in a load thread"))
            .fold(Tally::default(), |mut sum, part| {
                sum.succeeded += part.succeeded;
                sum.failures.extend(part.failures);
                sum
            })
    }
}

fn one_connection(to: SocketAddr, request: &str, pause: Duration, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let start = Instant::now();
    let mut next = start;
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(120) {
        // Late requests are made up for at once, so that the rate holds on average.
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next += pause;
        let stream = connection.get_or_insert_with(|| BufReader::new(connect(to)));
        match exchange(stream, request) {
            Ok(keep) => {
                tally.succeeded += 1;
                if !keep {
                    connection = None;
                }
            }
            Err(failure) => {
                tally.failures.push(failure);
                connection = None;
            }
        }
    }
    tally
}

/// Whether the connection may be used again; or what went wrong.
pub(crate) fn exchange(stream: &mut BufReader<TcpStream>, request: &str) -> Result<bool, String> {
    stream
        .get_mut()
        .write_all(request.as_bytes())
        .map_err(|error| format!("sending: {error}"))?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream
            .read_line(&mut head)
            .map_err(|error| format!("reading: {error}"))?
            == 0
        {
            return Err(format!("closed after {head:?}"));
        }
    }
    let lower = head.to_ascii_lowercase();
    let length = lower
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream
        .read_exact(&mut body)
        .map_err(|error| format!("reading the body: {error}"))?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(format!("{head}{}", String::from_utf8_lossy(&body)));
    }
    Ok(!lower.contains("\r\nconnection: close"))
}
