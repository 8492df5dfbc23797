//! The workload as a witness: keeps every octet that reaches it, and reads them as strictly as RFC 9112 allows.

use std::mem::take;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Answers every whole request with 200 and nothing else with anything.
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    evidence: Arc<Mutex<Evidence>>,
}

/// What has arrived since it was last taken.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// Heads, whether or not their bodies came to an end.
    pub(crate) heads: Vec<String>,
    /// The first lines of requests that came whole.
    pub(crate) whole: Vec<String>,
    /// All octets, of all connections.
    pub(crate) octets: Vec<u8>,
    /// Why the octets of a connection are no sequence of requests with one framing each.
    pub(crate) faults: Vec<String>,
}

impl Recorder {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let evidence = Arc::<Mutex<Evidence>>::default();
        let writing = Arc::clone(&evidence);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(record(stream, Arc::clone(&writing)));
            }
        });
        Self { address, evidence }
    }

    pub(crate) fn take(&self) -> Evidence {
        take(&mut *self.evidence.lock().unwrap())
    }
}

async fn record(mut stream: TcpStream, evidence: Arc<Mutex<Evidence>>) {
    let (mut unread, mut head_is_told) = (Vec::new(), false);
    loop {
        let start = unread.len();
        // A connection that is cut is one that ended.
        let read = stream.read_buf(&mut unread).await.unwrap_or_default();
        let mut answers = 0;
        {
            let mut evidence = evidence.lock().unwrap();
            evidence.octets.extend(&unread[start..]);
            while let Some(head_length) = position(&unread, b"\r\n\r\n").map(|at| at + 4) {
                let head = String::from_utf8_lossy(&unread[..head_length]).into_owned();
                if !head_is_told {
                    evidence.heads.push(head.clone());
                    head_is_told = true;
                }
                match body_length(&head, &unread[head_length..]) {
                    Ok(Some(length)) => {
                        let line = head.lines().next().unwrap_or_default().to_owned();
                        evidence.whole.push(line);
                        unread.drain(..head_length + length);
                        head_is_told = false;
                        answers += 1;
                    }
                    Ok(None) => break,
                    Err(fault) => {
                        evidence.faults.push(format!("{fault}: {head:?}"));
                        return;
                    }
                }
            }
            if read == 0 {
                if !unread.is_empty() && !head_is_told {
                    let rest = String::from_utf8_lossy(&unread).into_owned();
                    evidence.faults.push(format!("a part of a head: {rest:?}"));
                }
                return;
            }
        }
        for _ in 0..answers {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    }
}

/// The length of the body at the start of `rest`, once it is all there.
fn body_length(head: &str, rest: &[u8]) -> Result<Option<usize>, &'static str> {
    let values = |name: &str| -> Vec<String> {
        let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
            .collect()
    };
    if head.matches('\n').count() != head.matches("\r\n").count() || head.contains('\0') {
        return Err("a bare LF or a NUL");
    }
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(Some(0)),
        ([length], []) => {
            let length: usize = length.parse().map_err(|_| "a length that is no number")?;
            Ok((rest.len() >= length).then_some(length))
        }
        ([], [coding]) if coding == "chunked" => chunks_length(rest),
        ([], _) => Err("an unknown coding"),
        (_, []) => Err("several lengths"),
        (_, _) => Err("a length beside a coding"),
    }
}

fn chunks_length(rest: &[u8]) -> Result<Option<usize>, &'static str> {
    let mut at = 0;
    loop {
        let Some(line) = position(&rest[at..], b"\r\n") else {
            return Ok(None);
        };
        let size = std::str::from_utf8(&rest[at..at + line]).unwrap_or_default();
        let size = usize::from_str_radix(size, 16).map_err(|_| "a chunk size that is none")?;
        at += line + 2;
        if size == 0 {
            let is_end = rest[at..].starts_with(b"\r\n");
            let trailers = position(&rest[at..], b"\r\n\r\n").map(|end| end + 4);
            let end = if is_end { Some(2) } else { trailers };
            return Ok(end.map(|end| at + end));
        }
        match rest.get(at + size..at + size + 2) {
            Some(b"\r\n") => at += size + 2,
            Some(_) => return Err("a chunk without its end"),
            None => return Ok(None),
        }
    }
}

fn position(octets: &[u8], wanted: &[u8]) -> Option<usize> {
    octets
        .windows(wanted.len())
        .position(|found| found == wanted)
}
