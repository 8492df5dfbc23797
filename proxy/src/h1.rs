//! HTTP/1.1 as we read and write it: one strict reading of every message, or none.
//!
//! The modules `head`, `body` and `write` are pure: bytes in, values out, no I/O and no clock, so that a fuzzer reaches all
//! of them. What they are given in pieces they read like the whole: the verdict never depends on where a segment ended.
//! Nothing is repaired. A message that two servers could read differently is an error (RFC 9112, sections 2.2, 5 and 6),
//! and the connection it came on is of no further use.
//!
//! Deliberately not here: what a request means. Methods, targets and Host are judged by `normalize`, with the same rules
//! for both versions of HTTP.

pub mod head;

pub mod body;

pub mod write;

mod line;

mod field;
