//! Certificates per second, each recorded durably before it counts, and what each costs in time and memory:
//! `cargo bench -p ca --bench issuance`. On PostgreSQL with its URL in `BENCH_DATABASE_URL`, a database without a CA.
//!
//! First 64 callers ask as fast as they are answered. Then calls arrive evenly, at half of that rate and at half of the one that
//! is asked for, beside somebody who does nothing but sync a page to the temporary directory's disk: what it waits for the disk,
//! certificates wait as well. Then certificates pile up to 100 000 live ones.

use ca::config::{InitOptions, KeyProtection, OpenOptions};
use ca::csr::PublicKey;
use ca::store::{Database, Postgres, ServerTrust};
use ca::{Authority, Request, Requester};
use identity::{SpiffeId, TrustDomain};
use rcgen::{KeyPair, PublicKeyData};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const CALLERS: usize = 64;
const RUN: Duration = Duration::from_secs(10);
const LIVE: u64 = 100_000;
/// How many a second the CA has to reach.
const ASKED_ON_SQLITE: f64 = 3000.0;
const ASKED_ON_POSTGRES: f64 = 1500.0;
/// What a commit writes at least.
const PAGE: [u8; 8192] = [0; 8192];

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let temporary = tempfile::tempdir()?;
    let directory = temporary.path().join("ca");
    let database = match url() {
        Some(url) => Database::Postgres(Postgres::new(&url, &ServerTrust::SameMachine)?),
        None => Database::from(&directory),
    };
    let domain = TrustDomain::parse("bench.test")?;
    let init = InitOptions {
        database: Some(database.clone()),
        ..InitOptions::new(domain, KeyProtection::InsecurePlaintext)
    };
    ca::init(&directory, &init)?;
    let open = OpenOptions {
        database: Some(database.clone()),
        ..OpenOptions::default()
    };
    let authority = Arc::new(Authority::open(&directory, &open)?);
    let request = Request {
        id: SpiffeId::parse("spiffe://bench.test/ns/shop/sa/orders")?,
        dns_names: Default::default(),
        public_key: PublicKey::from_spki(&KeyPair::generate()?.subject_public_key_info())?,
        ttl: None,
        until: None,
        requester: Requester::Operator,
    };

    let until = Instant::now() + RUN;
    let issued = at_full_speed(&authority, &request, |_| Instant::now() < until).await?;
    let rate = issued as f64 / RUN.as_secs_f64();
    println!("{issued} certificates by {CALLERS} callers, {rate:.0} per second");
    let asked = match database {
        Database::Sqlite { .. } => ASKED_ON_SQLITE,
        Database::Postgres(_) => ASKED_ON_POSTGRES,
    };
    let mut live = issued;
    for half in [rate / 2.0, asked / 2.0] {
        let disk = Disk::watch(temporary.path())?;
        live += half_load(&authority, &request, half).await?;
        println!("  syncs of a page meanwhile: {}", disk.times()?);
    }
    let more = LIVE.saturating_sub(live);
    at_full_speed(&authority, &request, |done| done < more).await?;
    println!("{}", ca::ledger::verify(&database)?);
    println!("{} MiB resident", resident_mib()?);
    Ok(())
}

/// Asks while `go_on` says so, given how many were issued.
async fn at_full_speed(
    authority: &Arc<Authority>,
    request: &Request,
    go_on: impl Fn(u64) -> bool,
) -> Result<u64, Failure> {
    let (mut calls, mut issued) = (JoinSet::new(), 0);
    loop {
        while calls.len() < CALLERS && go_on(issued + calls.len() as u64) {
            let (authority, request) = (Arc::clone(authority), request.clone());
            calls.spawn(async move { authority.issue(request).await.map(drop) });
        }
        match calls.join_next().await {
            Some(done) => done??,
            None => return Ok(issued),
        }
        issued += 1;
    }
}

/// The time of each call counts from when it was due, so that a pause is felt by everyone who would have come in it.
async fn half_load(
    authority: &Arc<Authority>,
    request: &Request,
    rate: f64,
) -> Result<u64, Failure> {
    let start = Instant::now();
    let mut calls = JoinSet::new();
    for number in 0..(rate * RUN.as_secs_f64()) as u32 {
        let due = start + Duration::from_secs_f64(f64::from(number) / rate);
        tokio::time::sleep_until(due.into()).await;
        let (authority, request) = (Arc::clone(authority), request.clone());
        calls.spawn(async move {
            authority.issue(request).await?;
            Ok::<_, ca::authority::IssueError>(due.elapsed())
        });
    }
    let mut times = Vec::new();
    while let Some(took) = calls.join_next().await {
        times.push(took??);
    }
    println!("at {rate:.0} per second: {}", percentiles(&mut times));
    Ok(times.len() as u64)
}

fn percentiles(times: &mut [Duration]) -> String {
    times.sort();
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|part| {
        let last = times.len().saturating_sub(1) as f64;
        times
            .get((last * part) as usize)
            .copied()
            .unwrap_or_default()
    });
    format!("p50 {p50:.1?}, p99 {p99:.1?}, p99.9 {p999:.1?}")
}

/// A thread that syncs a page a hundred times a second.
struct Disk {
    stop: Sender<()>,
    thread: JoinHandle<std::io::Result<Vec<Duration>>>,
}

impl Disk {
    fn watch(folder: &Path) -> Result<Self, Failure> {
        let file = File::create(folder.join("page"))?;
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut times = Vec::new();
            while stopped.recv_timeout(Duration::from_millis(10)) == Err(RecvTimeoutError::Timeout)
            {
                let begun = Instant::now();
                file.write_all_at(&PAGE, 0)?;
                file.sync_data()?;
                times.push(begun.elapsed());
            }
            Ok(times)
        });
        Ok(Self { stop, thread })
    }

    fn times(self) -> Result<String, Failure> {
        drop(self.stop);
        let times = self.thread.join().map_err(|_| "the thread panicked")?;
        Ok(percentiles(&mut times?))
    }
}

fn resident_mib() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .ok_or("no VmRSS")?
        .parse()?;
    Ok(kib / 1024)
}

#[expect(
    clippy::disallowed_methods,
    reason = "Cargo gives a bench no arguments of its own"
)]
fn url() -> Option<String> {
    std::env::var("BENCH_DATABASE_URL").ok()
}
