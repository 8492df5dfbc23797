use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

use rustix::fs::{CWD, Mode, OFlags, mkfifoat};
use serde_json::Value;

use super::writer::Sampler;
use super::*;
use crate::config;

/// Breakers of lines, of strings, of terminals and of readers.
const HOSTILE: [&str; 10] = [
    "/a\r\n{\"status\":200}",
    "\",\"decision\":\"allow\",\"x\":\"",
    "\\",
    "\u{1b}[31mred\u{1b}]0;title\u{7}",
    "\0\u{1}\u{1f}\u{7f}",
    "\u{85}\u{9b}31m",
    "\u{2028}\u{2029}",
    "\u{202e}gnp.exe",
    "\u{feff}/é/\u{10ffff}",
    "{}[]:,\t",
];

fn record(path: Path<'_>) -> Record<'_> {
    Record {
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_334_400_123),
        direction: Direction::Inbound,
        peer: None,
        address: None,
        method: "GET",
        host: Some(b"orders"),
        path,
        status: 200,
        decision: Decision::Allow,
        reason: None,
        rule: Some("shop/frontend-reads-orders"),
        generation: "4fa1",
        decision_id: None,
        bytes_in: 0,
        bytes_out: 12,
        duration: Duration::from_micros(512),
        upstream: Some("127.0.0.1:8080"),
    }
}

fn line_of(record: &Record<'_>) -> String {
    let mut line = Vec::new();
    line::append(&mut line, &mut line::Clock::default(), record, 0);
    String::from_utf8(line).unwrap()
}

#[test]
fn line_reads_as_documented() {
    assert_eq!(
        line_of(&record(Path::Canonical("/orders/42"))),
        concat!(
            r#"{"time":"2026-11-22T08:00:00.123Z","direction":"inbound","method":"GET","host":"orders","#,
            r#""path":"/orders/42","status":200,"decision":"allow","rule":"shop/frontend-reads-orders","#,
            r#""generation":"4fa1","bytes_in":0,"bytes_out":12,"duration_us":512,"upstream":"127.0.0.1:8080"}"#,
            "\n"
        )
    );
}

#[test]
fn each_line_has_its_own_time_whatever_the_one_before_had() {
    let mut clock = line::Clock::default();
    let day = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_334_400);
    let year_10_000 = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800);
    for (time, written) in [
        (
            day + Duration::from_millis(123),
            r#""2026-11-22T08:00:00.123Z""#,
        ),
        (
            day + Duration::from_micros(7999),
            r#""2026-11-22T08:00:00.007Z""#,
        ),
        (
            day + Duration::from_millis(1000),
            r#""2026-11-22T08:00:01.000Z""#,
        ),
        (
            day - Duration::from_millis(1),
            r#""2026-11-22T07:59:59.999Z""#,
        ),
        (year_10_000, "null"),
        (
            day + Duration::from_millis(999),
            r#""2026-11-22T08:00:00.999Z""#,
        ),
        (SystemTime::UNIX_EPOCH - Duration::from_secs(1), "null"),
        (day, r#""2026-11-22T08:00:00.000Z""#),
    ] {
        let mut line = Vec::new();
        let record = Record {
            time,
            ..record(Path::Canonical("/"))
        };
        line::append(&mut line, &mut clock, &record, 0);
        let begins = format!(r#"{{"time":{written},"direction""#);
        assert!(line.starts_with(begins.as_bytes()), "{begins}");
    }
}

/// R20.
#[test]
fn hostile_text_stays_inside_its_field_of_one_line() {
    let metrics = Metrics::new();
    let counters = metrics.caller(&"spiffe://demo.test/a".parse().unwrap());
    for text in HOSTILE {
        let mut record = record(Path::Raw(text.as_bytes()));
        record.method = text;
        record.host = Some(text.as_bytes());
        record.rule = Some(text);
        record.upstream = Some(text);
        record.decision_id = Some(text);
        record.peer = Some(Peer {
            id: text,
            serial: text,
            counters: &counters,
        });
        record.decision = Decision::Reject;
        let line = line_of(&record);
        let (json, end) = line.split_at(line.len() - 1);
        assert_eq!(end, "\n");
        let special =
            |c: char| c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c) || c == '\u{feff}';
        assert!(!json.contains(special), "{json:?}");
        let read: Value = serde_json::from_str(json).unwrap();
        for field in [
            "raw_path",
            "method",
            "host",
            "rule",
            "upstream",
            "decision_id",
            "peer.id",
            "peer.serial",
        ] {
            assert_eq!(read[field], text, "{field}");
        }
        assert_eq!(
            (&read["decision"], &read["status"]),
            (&"reject".into(), &200.into())
        );
    }
}

#[test]
fn every_byte_survives_in_some_form_and_long_fields_are_cut() {
    let all: Vec<u8> = (0..=255).collect();
    let read: Value = serde_json::from_str(&line_of(&record(Path::Raw(&all)))).unwrap();
    assert!(
        read["raw_path"].as_str().unwrap().ends_with("\\xfe\\xff"),
        "{read}"
    );

    let long = "é".repeat(100_000);
    let mut record = record(Path::Canonical(&long));
    record.method = &long;
    let line = line_of(&record);
    assert!(line.len() < 4096, "{} bytes", line.len());
    let read: Value = serde_json::from_str(&line).unwrap();
    assert!(read["path"].as_str().unwrap().ends_with('…'));
}

#[test]
fn closing_writes_every_line_that_was_taken() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let metrics = Metrics::new();
    let (log, writer) =
        AccessLog::open(&config::AccessLog::File(file.clone()), metrics.clone()).unwrap();
    for _ in 0..1000 {
        record(Path::Canonical("/")).finish(&metrics, &log);
    }
    assert!(writer.close(Duration::from_secs(10)));
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 1000);
    assert!(
        text.lines()
            .all(|line| serde_json::from_str::<Value>(line).is_ok())
    );
}

#[test]
fn reopening_follows_a_rotated_file() {
    let folder = tempfile::tempdir().unwrap();
    let (file, moved) = (
        folder.path().join("access.log"),
        folder.path().join("access.log.1"),
    );
    let metrics = Metrics::new();
    let (log, writer) =
        AccessLog::open(&config::AccessLog::File(file.clone()), metrics.clone()).unwrap();
    record(Path::Canonical("/old")).finish(&metrics, &log);
    std::fs::rename(&file, &moved).unwrap();
    log.reopen();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !file.exists() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    record(Path::Canonical("/new")).finish(&metrics, &log);
    assert!(writer.close(Duration::from_secs(10)));
    assert!(std::fs::read_to_string(&moved).unwrap().contains("/old"));
    assert!(std::fs::read_to_string(&file).unwrap().contains("/new"));
}

#[test]
fn full_disk_costs_counted_lines() {
    let metrics = Metrics::new();
    let target = config::AccessLog::File("/dev/full".into());
    let (log, writer) = AccessLog::open(&target, metrics.clone()).unwrap();
    for _ in 0..10 {
        record(Path::Canonical("/")).finish(&metrics, &log);
    }
    assert!(writer.close(Duration::from_secs(10)));
    assert_eq!(metrics.access_log_dropped.get(), 10);
}

#[test]
fn stalled_writer_costs_lines_and_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    mkfifoat(CWD, &pipe, Mode::from_raw_mode(0o600)).unwrap();
    // Opened and never read.
    let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
    let mut options = File::options();
    let reader = options
        .read(true)
        .custom_flags(nonblock)
        .open(&pipe)
        .unwrap();
    let metrics = Metrics::new();
    let (log, writer) = AccessLog::open(&config::AccessLog::File(pipe), metrics.clone()).unwrap();
    for _ in 0..20_000 {
        record(Path::Canonical("/")).finish(&metrics, &log);
    }
    assert!(metrics.access_log_dropped.get() > 0);
    assert!(!writer.close(Duration::from_millis(1)));
    // Frees the thread.
    drop(reader);
}

#[test]
fn refusals_are_sampled_and_say_how_many_were_left_out() {
    let (mut sampler, start) = (Sampler::default(), Instant::now());
    let written = (0..10_000)
        .filter(|_| sampler.admit(start).is_some())
        .count();
    assert_eq!(written, 100);
    assert_eq!(sampler.admit(start + Duration::from_secs(1)), Some(9_900));
    assert_eq!(sampler.admit(start + Duration::from_secs(1)), Some(0));
}
