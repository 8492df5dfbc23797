//! How long it takes until every stream of the Workload API has what a rotation brings, and what a stream costs:
//! `cargo bench --bench workload -- --max 2`. See benches/README.md.
//!
//! A real CA, and in front of it first an agent, then a sidecar, with all streams over the Unix socket: a connection each with
//! FetchX509SVID, and beside it on some of them bundles, SDS and delta. Then the same with as many connections that never
//! read.

mod clients;
mod mesh;
mod process;

use clients::{Clients, Part};
use mesh::{Mesh, Role};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// For a rotation to reach everybody. What takes longer has failed, whatever the bound.
const PATIENCE: Duration = Duration::from_secs(60);

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Arguments {
    streams: usize,
    rounds: usize,
    /// In seconds.
    max: Option<f64>,
}

impl Arguments {
    fn read() -> Result<Self, Failure> {
        let mut read = Self {
            streams: 1000,
            rounds: 3,
            max: None,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            // Cargo's own.
            if name == "--bench" {
                continue;
            }
            let value = arguments.next().ok_or("expected a value")?;
            match name.as_str() {
                "--streams" => read.streams = value.parse()?,
                "--rounds" => read.rounds = value.parse()?,
                "--max" => read.max = Some(value.parse()?),
                other => {
                    return Err(
                        format!("expected --streams, --rounds or --max, found {other}").into(),
                    );
                }
            }
        }
        Ok(read)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Failure> {
    let arguments = Arguments::read()?;
    let mut slowest = Duration::ZERO;
    for role in [Role::Agent, Role::Sidecar] {
        slowest = slowest.max(measure(role, &arguments).await?);
    }
    println!("slowest of all: {:.3} s", slowest.as_secs_f64());
    let is_late = |max| slowest.as_secs_f64() > max;
    Ok(match arguments.max {
        Some(max) if is_late(max) => {
            println!("more than {max} s");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    })
}

/// The slowest update of one kind of process.
async fn measure(role: Role, arguments: &Arguments) -> Result<Duration, Failure> {
    let mesh = Mesh::start(role, 4 * arguments.streams).await?;
    let rest = mesh.server.memory_kib()?;
    let mut clients = Clients::connect(&mesh.socket, arguments.streams).await?;
    let with = mesh.server.memory_kib()?;
    let count = clients.streams();
    println!(
        "{role:?}: {count} streams on {} connections, {:.1} KiB each connection, {} MiB at rest",
        arguments.streams,
        with.saturating_sub(rest) as f64 / arguments.streams as f64,
        rest / 1024,
    );
    let mut slowest = Duration::ZERO;
    for _ in 0..arguments.rounds {
        slowest = slowest.max(round(&mesh, &mut clients).await?);
    }
    let before = mesh.server.memory_kib()?;
    let stalled = clients::stall(&mesh.socket, arguments.streams).await?;
    println!(
        "{role:?}: {} more connections that never read",
        stalled.len()
    );
    for _ in 0..arguments.rounds {
        slowest = slowest.max(round(&mesh, &mut clients).await?);
    }
    println!(
        "{role:?}: {:.1} KiB each of those",
        mesh.server.memory_kib()?.saturating_sub(before) as f64 / stalled.len() as f64
    );
    Ok(slowest)
}

/// A root comes, one goes, and the certificate is renewed.
async fn round(mesh: &Mesh, clients: &mut Clients) -> Result<Duration, Failure> {
    let mut slowest = Duration::ZERO;
    for (what, steps) in [
        ("a root more", &["prepare"][..]),
        ("a root less", &["activate", "retire"]),
    ] {
        let (last, earlier) = steps.split_last().ok_or("expected a step")?;
        for step in earlier {
            mesh.rotate(step).await?;
        }
        let (before, cpu) = (clients.present(), mesh.server.cpu()?);
        mesh.rotate(last).await?;
        let done = Instant::now();
        let times = clients.all_differ(Part::Bundle, &before).await?;
        slowest = slowest.max(report(what, done, &times, mesh.server.cpu()? - cpu));
    }
    let (before, cpu) = (clients.present(), mesh.server.cpu()?);
    let waiting = clients.all_differ(Part::Certificate, &before);
    let (times, issued) = mesh.issued_while(waiting).await?;
    let (times, cpu) = (times?, mesh.server.cpu()? - cpu);
    // The last before anybody had it is the one.
    let first = times.iter().min().copied();
    let before_first = issued.into_iter().filter(|issued| Some(*issued) <= first);
    let there = before_first.max().or(first).unwrap_or_else(Instant::now);
    Ok(slowest.max(report("a certificate", there, &times, cpu)))
}

/// From when it was there, or from the first stream that has it if that is sooner, to the last.
fn report(what: &str, there: Instant, times: &[Instant], cpu: Duration) -> Duration {
    let first = times.iter().min().copied().unwrap_or(there);
    let last = times.iter().max().copied().unwrap_or(there);
    let (took, spread) = (last - first.min(there), last - first);
    println!(
        "  {what:13} {:5} streams: last after {:5.0} ms, {:5.0} ms after the first; {:4.0} ms CPU",
        times.len(),
        took.as_secs_f64() * 1e3,
        spread.as_secs_f64() * 1e3,
        cpu.as_secs_f64() * 1e3,
    );
    took
}
