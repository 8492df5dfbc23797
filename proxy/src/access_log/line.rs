//! How a record reads as JSON. Whatever a peer sent is cut to a length, and no byte of it can end the string it is in, the
//! line, or be taken by a terminal for a command.

use std::fmt;
use std::io::{self, Write};
use std::net::IpAddr;
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::{Path, Record};
use crate::metrics::{Decision, Direction};

/// Past this the path is cut and ends in `…`. The rest seldom tells more, and lines stay small under attack.
const MAX_PATH_BYTES: usize = 2048;
/// A DNS name with a port has at most 261 bytes.
const MAX_NAME_BYTES: usize = 261;
/// As long as a SPIFFE ID may be.
const MAX_ID_BYTES: usize = 2048;

const RFC3339_MS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// The fields in the order in which they are written. Names are an interface: only ever add.
#[derive(Serialize)]
struct Line<'a> {
    time: Option<&'a str>,
    direction: Direction,
    #[serde(rename = "peer.id", skip_serializing_if = "Option::is_none")]
    peer_id: Option<Text<'a>>,
    #[serde(rename = "peer.serial", skip_serializing_if = "Option::is_none")]
    peer_serial: Option<Text<'a>>,
    #[serde(rename = "peer.address", skip_serializing_if = "Option::is_none")]
    peer_address: Option<IpAddr>,
    method: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<Text<'a>>,
    /// One of the two.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_path: Option<Text<'a>>,
    status: u16,
    decision: Decision,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Text<'a>>,
    generation: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision_id: Option<Text<'a>>,
    bytes_in: u64,
    bytes_out: u64,
    duration_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<Text<'a>>,
    /// Lines of refusals left out since the last one written.
    #[serde(skip_serializing_if = "Option::is_none")]
    suppressed: Option<u64>,
}

/// Appends the line of `record`, with its newline.
pub(super) fn append(
    buffer: &mut Vec<u8>,
    clock: &mut Clock,
    record: &Record<'_>,
    suppressed: u64,
) {
    let (path, raw_path) = match record.path {
        Path::Canonical(path) => (Some(Text::new(path, MAX_PATH_BYTES)), None),
        Path::Raw(raw) => (
            None,
            Some(Text {
                bytes: raw,
                max: MAX_PATH_BYTES,
            }),
        ),
    };
    let line = Line {
        time: clock.text(record.time),
        direction: record.direction,
        peer_id: record.peer.map(|peer| Text::new(peer.id, MAX_ID_BYTES)),
        peer_serial: record
            .peer
            .map(|peer| Text::new(peer.serial, MAX_NAME_BYTES)),
        peer_address: record.address,
        method: Text::new(record.method, MAX_NAME_BYTES),
        host: record.host.map(|host| Text {
            bytes: host,
            max: MAX_NAME_BYTES,
        }),
        path,
        raw_path,
        status: record.status,
        decision: record.decision,
        reason: record.reason,
        rule: record.rule.map(|rule| Text::new(rule, MAX_NAME_BYTES)),
        generation: Text::new(record.generation, MAX_NAME_BYTES),
        decision_id: record.decision_id.map(|id| Text::new(id, MAX_NAME_BYTES)),
        bytes_in: record.bytes_in,
        bytes_out: record.bytes_out,
        duration_us: u64::try_from(record.duration.as_micros()).unwrap_or(u64::MAX),
        upstream: record
            .upstream
            .map(|upstream| Text::new(upstream, MAX_NAME_BYTES)),
        suppressed: (suppressed > 0).then_some(suppressed),
    };
    let mut serializer = serde_json::Serializer::with_formatter(&mut *buffer, OneLine);
    line.serialize(&mut serializer)
        .expect("a Vec takes every write and every key is text");
    buffer.push(b'\n');
}

/// Text that may come from a peer, written up to `max` bytes.
struct Text<'a> {
    bytes: &'a [u8],
    max: usize,
}

impl<'a> Text<'a> {
    fn new(text: &'a str, max: usize) -> Self {
        Self {
            bytes: text.as_bytes(),
            max,
        }
    }
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match str::from_utf8(self.bytes) {
            Ok(text) if text.len() <= self.max => serializer.serialize_str(text),
            _ => serializer.collect_str(self),
        }
    }
}

/// Bytes that are not UTF-8 as `\xNN`, so that the log keeps what was tried.
impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = &self.bytes[..self.bytes.len().min(self.max)];
        for chunk in cut.utf8_chunks() {
            f.write_str(chunk.valid())?;
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        if cut.len() < self.bytes.len() {
            f.write_str("…")?;
        }
        Ok(())
    }
}

/// The time that was written last: a busy log has many lines in the same second, of which the milliseconds are new.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: Option<u64>,
    text: [u8; TIME.len()],
}

const TIME: &str = "2026-11-22T08:00:00.000Z";
const MILLISECONDS: Range<usize> = TIME.len() - 4..TIME.len() - 1;

impl Clock {
    /// Fails only for years that do not fit into four digits, or came before 1970; the line is worth more than its time.
    fn text(&mut self, time: SystemTime) -> Option<&str> {
        let since = time.duration_since(UNIX_EPOCH).ok()?;
        let second = since.as_secs();
        if self.second.take() != Some(second) {
            let time = OffsetDateTime::from_unix_timestamp(second.try_into().ok()?).ok()?;
            let mut text = self.text.as_mut_slice();
            time.format_into(&mut text, RFC3339_MS).ok()?;
        }
        self.second = Some(second);
        let mut rest = since.subsec_millis();
        for digit in self.text[MILLISECONDS].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        str::from_utf8(&self.text).ok()
    }
}

/// JSON without spaces. JSON itself escapes the quote, the backslash and U+0000 to U+001F; this adds what other readers of
/// logs act on: DEL and the C1 controls (terminals), line and paragraph separators (line splitters), and marks that reorder
/// text on screen.
struct OneLine;

impl Formatter for OneLine {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        // Nearly all text is plain ASCII, of which only DEL is acted on: many bytes are looked at together.
        if rest.is_ascii() && memchr::memchr(0x7f, rest.as_bytes()).is_none() {
            return writer.write_all(rest.as_bytes());
        }
        while let Some(at) = rest.find(acted_on) {
            let (plain, tail) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let mut chars = tail.chars();
            if let Some(found) = chars.next() {
                write!(writer, "\\u{:04x}", u32::from(found))?;
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

/// All of these are below U+10000, so one `\u` escape holds each.
fn acted_on(c: char) -> bool {
    matches!(c, '\u{7f}'..='\u{9f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
