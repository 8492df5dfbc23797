//! Whether a fleet has new certificates soon after a CA is back that was away past their renewal times, without trampling it:
//! `cargo bench --bench outage`. See benches/README.md.
//!
//! The CA is a process that is killed and started again; the sidecars are tasks here, the client of the CA that each of them has.
//! So that nobody waits for half a life, renewal times are brought forward.

mod authority;
mod fleet;
#[path = "../workload/process.rs"]
mod process;

use authority::Authority;
use fleet::{Member, Return};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::sleep;

const DOMAIN: &str = "bench.test";
/// For anything. What takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Within which all renewals become due, and for how long the CA is away after that: those waits between attempts have grown as
/// long as they get.
const DUE_WITHIN: Duration = Duration::from_secs(10);
const AWAY: Duration = Duration::from_secs(25);
/// For how long answers are timed. The longest wait between attempts is 30 s.
const RETURN: Duration = Duration::from_secs(32);
/// Those that time what an answer takes, again and again, and how long they rest.
const PROBES: usize = 10;
const PROBE_REST: Duration = Duration::from_millis(400);

/// The bounds.
const ALL_RENEWED: Duration = PATIENCE;
const P99: Duration = Duration::from_secs(2);
/// Twice what one address may have by default: 6000 certificates a minute.
const ISSUED_IN_A_SECOND: usize = 2 * 6000 / 60;
/// Of all members.
const ATTEMPTS_IN_A_SECOND: f64 = 0.1;

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Arguments {
    members: usize,
    /// Of a certificate.
    life: Duration,
}

impl Arguments {
    fn read() -> Result<Self, Failure> {
        let mut read = Self {
            members: 500,
            // From five minutes on waits between attempts are the same for all lives.
            life: Duration::from_secs(300),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            // Cargo's own.
            if name == "--bench" {
                continue;
            }
            let value = arguments.next().ok_or("expected a value")?;
            match name.as_str() {
                "--members" => read.members = value.parse()?,
                "--life" => read.life = Duration::from_secs(value.parse()?),
                other => return Err(format!("expected --members or --life, found {other}").into()),
            }
        }
        Ok(read)
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    let Arguments {
        members: count,
        life,
    } = Arguments::read()?;
    proxy::raise_open_files();
    let mut ca = Authority::start().await?;
    let members = fleet::enrol(&ca, "member", count, life).await?;
    let probes = fleet::enrol(&ca, "probe", PROBES, life).await?;
    println!(
        "{count} have certificates of {} s; the CA is killed",
        life.as_secs()
    );
    ca.stop();
    fleet::all_due(&members, DUE_WITHIN).await?;
    sleep(AWAY).await;

    let admin = ca.admin();
    let watching = tokio::spawn(fleet::watch(members, Instant::now() + PATIENCE));
    let back = ca.serve().await?;
    let until = back + RETURN;
    let connections = tokio::spawn(Authority::busiest_second(admin, until));
    let took = probe(probes, until).await?;
    let connections = connections.await??;
    let returned = watching.await??;
    let (cpu, memory) = ca.costs()?;
    println!(
        "the CA took {:.1} s of CPU and has {} MiB",
        cpu.as_secs_f64(),
        memory / 1024
    );
    Ok(report(&returned, back, took, connections))
}

/// What answers took, connection and all, from when the CA was back.
async fn probe(probes: Vec<Member>, until: Instant) -> Result<Vec<(Instant, Duration)>, Failure> {
    let mut probing = JoinSet::new();
    for probe in probes {
        probing.spawn(async move {
            let mut took = Vec::new();
            while Instant::now() < until {
                let time = probe.renew().await?;
                took.push((Instant::now(), time));
                sleep(PROBE_REST).await;
            }
            Ok::<_, Failure>(took)
        });
    }
    let mut all = Vec::new();
    while let Some(took) = probing.join_next().await {
        all.extend(took??);
    }
    Ok(all)
}

fn report(
    returned: &[Return],
    back: Instant,
    answers: Vec<(Instant, Duration)>,
    connections: u64,
) -> ExitCode {
    let renewed: Vec<_> = returned.iter().filter_map(|one| one.renewed).collect();
    let last = renewed.iter().max().map(|at| at.duration_since(back));
    let issued = renewed.iter().chain(answers.iter().map(|(at, _)| at));
    let issued = busiest_second(issued.copied().collect());
    let failed = returned.iter().flat_map(|one| &one.failed);
    let failed: Vec<_> = failed.copied().filter(|at| *at >= back).collect();
    let attempts = busiest_second(failed.iter().chain(&renewed).copied().collect());
    let mut took: Vec<_> = answers.into_iter().map(|(_, took)| took).collect();
    took.sort();
    let p99 = took.get(took.len().saturating_sub(1) * 99 / 100).copied();
    let (members, last) = (returned.len(), last.unwrap_or_default());
    println!(
        "{} of {members} renewed, the last {:.1} s after the CA was back; {} attempts in vain meanwhile",
        renewed.len(),
        last.as_secs_f64(),
        failed.len()
    );
    println!(
        "busiest second: {attempts} attempts to renew, {issued} certificates with those of {PROBES} who ask without end, {connections} connections with those for streams"
    );
    println!(
        "{} of their answers: p50 {:.0?}, p99 {:.0?}, longest {:.0?}",
        took.len(),
        took.get(took.len() / 2).copied().unwrap_or_default(),
        p99.unwrap_or_default(),
        took.last().copied().unwrap_or_default()
    );
    let most_attempts = members as f64 * ATTEMPTS_IN_A_SECOND;
    let broken: Vec<_> = [
        (
            renewed.len() < members || last > ALL_RENEWED,
            "not all renewed within a minute",
        ),
        (p99.is_none_or(|p99| p99 >= P99), "p99 of 2 s or more"),
        (
            issued > ISSUED_IN_A_SECOND,
            "more than twice as many certificates in a second as an address may have",
        ),
        (
            attempts as f64 > most_attempts,
            "more than a tenth of all within a second",
        ),
    ]
    .into_iter()
    .filter_map(|(is_broken, what)| is_broken.then_some(what))
    .collect();
    if broken.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("broken: {}", broken.join("; "));
    ExitCode::FAILURE
}

/// How many there are at most within a second.
fn busiest_second(mut times: Vec<Instant>) -> usize {
    times.sort();
    let within = |first: usize| {
        let end = times[first] + Duration::from_secs(1);
        times.partition_point(|at| *at < end) - first
    };
    (0..times.len()).map(within).max().unwrap_or(0)
}
