//! End-to-end tests: the real binary, real sockets, real certificates. See tests/README.md.

// Starts CAs and sidecars as processes, and speaks HTTP/1.1 to them.
mod harness;
