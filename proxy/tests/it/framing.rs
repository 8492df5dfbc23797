use crate::harness::{
    Authority, Caller, Evidence, FRONTEND, Life, ORDERS, Recorder, Sidecar, document, grant,
    outbound, service, sidecar, tls,
};
use base64::Engine as _;
use identity::Svid;
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::timeout;

const SAMPLE: &str = include_str!("../../../tests/vectors/http/h1_framing_sample.json");
const HOSTILE: &str = include_str!("../../../tests/vectors/http/h1_hostile.json");

/// Meshes among which the rows are dealt, since most of the time is spent waiting for connections to end.
const LANES: usize = 4;

#[tokio::test]
async fn every_message_of_the_sample_gets_its_verdict_however_it_is_cut() {
    assert_eq!(replay(SAMPLE).await, 57);
}

#[tokio::test]
async fn every_hostile_message_gets_its_verdict_however_it_is_cut() {
    assert_eq!(replay(HOSTILE).await, 561);
}

/// Sends every row over both listeners in every cut. Answers how many rows there were.
async fn replay(corpus: &str) -> usize {
    let corpus: Value = serde_json::from_str(corpus).unwrap();
    let rows = corpus["vectors"].as_array().unwrap();
    let lanes = (0..LANES).map(|lane| {
        let rows: Vec<Value> = rows.iter().skip(lane).step_by(LANES).cloned().collect();
        tokio::spawn(async move {
            let mesh = Mesh::new().await;
            let mut failures = Vec::new();
            for row in &rows {
                for entry in [Entry::Inbound, Entry::Outbound] {
                    failures.extend(mesh.failures(row, entry).await);
                }
            }
            failures
        })
    });
    let mut failures = Vec::new();
    for lane in lanes.collect::<Vec<_>>() {
        failures.extend(lane.await.unwrap());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    rows.len()
}

/// Where a message enters.
#[derive(Debug, Clone, Copy)]
enum Entry {
    /// Over mutual TLS, as another sidecar or a client of its own making.
    Inbound,
    /// In plain text, as the workload; it leaves the outbound sidecar on HTTP/2.
    Outbound,
}

/// How a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Whole,
    Octets,
    Lines,
}

/// What a message led to. Does not depend on the cut.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    statuses: Vec<u16>,
    is_closed: bool,
    /// Request lines at the workload.
    forwarded: Vec<String>,
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

struct Mesh {
    authority: Authority,
    frontend: Svid,
    recorder: Recorder,
    inbound: Sidecar,
    outbound: Sidecar,
}

impl Mesh {
    /// Everything is allowed except what is under `/admin`.
    async fn new() -> Self {
        let authority = Authority::new();
        let recorder = Recorder::start().await;
        let frontend = authority.svid(FRONTEND, Life::Hour);
        let rules = grant("allow: [{methods: [\"*\"], path: \"/**\"}]")
            + &document("Guard", "no-admin", "deny: [{path: \"/admin/**\"}]");
        let orders = authority.svid(ORDERS, Life::Hour);
        let inbound = sidecar(&authority, orders, recorder.address, &rules, |_| ());
        let own = authority.svid(FRONTEND, Life::Hour);
        let outbound = sidecar(&authority, own, recorder.address, &rules, |config| {
            config.outbound = outbound(vec![service("svc.test", inbound.inbound, ORDERS)]);
        });
        Self {
            authority,
            frontend,
            recorder,
            inbound,
            outbound,
        }
    }

    async fn connect(&self, entry: Entry) -> Box<dyn Duplex> {
        match entry {
            Entry::Inbound => {
                let (to, svid) = (self.inbound.inbound, Some(&self.frontend));
                let stream = tls(to, &self.authority, svid, b"http/1.1").await.unwrap();
                stream.get_ref().0.set_nodelay(true).unwrap();
                Box::new(stream)
            }
            Entry::Outbound => {
                let stream = TcpStream::connect(self.outbound.outbound()).await.unwrap();
                stream.set_nodelay(true).unwrap();
                Box::new(stream)
            }
        }
    }

    async fn failures(&self, row: &Value, entry: Entry) -> Vec<String> {
        let mut failures = Vec::new();
        let mut first = None;
        for cut in [Cut::Whole, Cut::Octets, Cut::Lines] {
            let (verdict, faults) = self.send(row, entry, cut).await;
            let faults = faults
                .iter()
                .chain(&missed(&verdict, &row["expect"]))
                .cloned()
                .collect::<Vec<_>>();
            let first = first.get_or_insert_with(|| verdict.statuses.clone());
            if !faults.is_empty() || *first != verdict.statuses {
                let id = row["id"].as_str().unwrap();
                failures.push(format!(
                    "{id} {entry:?} {cut:?}: {faults:?} in {verdict:?}, whole: {first:?}"
                ));
            }
        }
        failures
    }

    /// What the app has seen of all that was sent: when a later request has come through, nothing is under way any more.
    /// That one comes over the same pool, so a connection left in the middle of a message would show.
    async fn fenced(&self) -> Evidence {
        let mut caller = Caller::workload(self.outbound.outbound()).await;
        let reply = caller.get("svc.test", "/fence").await;
        assert_eq!(reply.status, 200);
        let mut evidence = self.recorder.take();
        let is_fence = |line: &String| line.starts_with("GET /fence HTTP/1.1");
        evidence.heads.retain(|head| !is_fence(head));
        evidence.whole.retain(|line| !is_fence(line));
        evidence
    }

    /// The verdict, and what must not happen to any message.
    async fn send(&self, row: &Value, entry: Entry, cut: Cut) -> (Verdict, Vec<String>) {
        let (mut reading, mut writing) = tokio::io::split(self.connect(entry).await);
        // Read at once: what comes back may be lost when more is written to a connection that has been closed.
        let answer = tokio::spawn(async move {
            let mut answer = Vec::new();
            let end = reading.read_to_end(&mut answer);
            let is_closed = timeout(Duration::from_secs(10), end).await.is_ok();
            (answer, is_closed)
        });
        let message = message(row);
        for segment in segments(&message, cut) {
            // The sidecar may close before all is written.
            if writing.write_all(segment).await.is_err()
                || writing.flush().await.is_err()
                || answer.is_finished()
            {
                break;
            }
            yield_now().await;
        }
        // Well-formed messages have an end; the others have to be refused without one.
        if row["expect"]["front"] != "reject" {
            writing.shutdown().await.ok();
        }
        let (answer, is_closed) = answer.await.unwrap();
        let evidence = self.fenced().await;
        let mut faults = evidence.faults;
        let octets = String::from_utf8_lossy(&evidence.octets);
        let expect = &row["expect"];
        if let Some(forbidden) = expect["upstream_must_not_contain"].as_str()
            && octets.contains(forbidden)
        {
            faults.push(format!("{forbidden} in {octets:?}"));
        }
        for field in expect["upstream_headers_absent"]
            .as_array()
            .into_iter()
            .flatten()
        {
            if octets.contains(&format!("\r\n{}:", field.as_str().unwrap())) {
                faults.push(format!("{field} in {octets:?}"));
            }
        }
        let most = expect["max_upstream_requests"].as_u64().unwrap_or(1);
        if evidence.heads.len() as u64 > most && !may_pass(expect) {
            faults.push(format!("{} requests at the app", evidence.heads.len()));
        }
        let verdict = Verdict {
            statuses: statuses(&answer),
            is_closed,
            forwarded: evidence.whole,
        };
        (verdict, faults)
    }
}

/// Whether the row may also be answered in full.
fn may_pass(expect: &Value) -> bool {
    let statuses = expect["status"].as_array();
    statuses.is_some_and(|all| all.contains(&200.into()))
}

/// What the row expects and the verdict does not have.
fn missed(verdict: &Verdict, expect: &Value) -> Vec<String> {
    let last = verdict.statuses.last().copied().unwrap_or_default();
    let is_one_of = |list: &Value| {
        let statuses: Vec<_> = list.as_array().into_iter().flatten().collect();
        statuses.is_empty() || statuses.iter().any(|status| **status == last)
    };
    let good = verdict.statuses.iter().filter(|status| **status < 400);
    let answered = good.count() as u64;
    let before = expect["answered_before"].as_u64().unwrap_or(0);
    let mut missed = Vec::new();
    let front = expect["front"].as_str().unwrap();
    match front {
        "reject" if last == 200 && may_pass(expect) => {}
        "reject" if answered > before || last < 400 || !is_one_of(&expect["status"]) => {
            missed.push("no refusal".to_owned())
        }
        "reject" if !verdict.is_closed => missed.push("the connection stays".to_owned()),
        "reject" if !verdict.forwarded.is_empty() && expect["max_upstream_requests"] == 0 => {
            missed.push("forwarded".to_owned());
        }
        "policy" | "accept" if expect["statuses"].is_array() => {
            let found: Value = verdict.statuses.clone().into();
            if found != expect["statuses"] {
                missed.push(format!("statuses {}", expect["statuses"]));
            }
        }
        "accept" if last != 200 => missed.push("no 200".to_owned()),
        _ => {}
    }
    missed
}

/// The final statuses of the answers, in their order.
fn statuses(answer: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answer);
    let starts = text.match_indices("HTTP/1.").map(|(at, _)| at);
    let status = |at: usize| {
        text.get(at + 9..at + 12)
            .and_then(|code| code.parse::<u16>().ok())
    };
    starts
        .filter_map(status)
        .filter(|status| *status >= 200)
        .collect()
}

fn segments(message: &[u8], cut: Cut) -> Vec<&[u8]> {
    match cut {
        Cut::Whole => vec![message],
        Cut::Octets => message.chunks(1).collect(),
        Cut::Lines => {
            let (mut segments, mut start) = (Vec::new(), 0);
            for end in 2..=message.len() {
                if message[..end].ends_with(b"\r\n") || end == message.len() {
                    segments.push(&message[start..end]);
                    start = end;
                }
            }
            segments
        }
    }
}

/// The message as octets: whole in base64, or as texts to be repeated.
fn message(row: &Value) -> Vec<u8> {
    if let Some(parts) = row["parts"].as_array() {
        let part = |part: &Value| {
            let times = usize::try_from(part[1].as_u64().unwrap()).unwrap();
            part[0].as_str().unwrap().repeat(times).into_bytes()
        };
        return parts.iter().flat_map(part).collect();
    }
    let engine = base64::engine::general_purpose::STANDARD;
    engine.decode(row["raw_b64"].as_str().unwrap()).unwrap()
}
