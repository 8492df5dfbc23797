//! End-to-end tests: the real binary, real sockets, real certificates. See tests/README.md.

#![expect(
    clippy::disallowed_methods,
    reason = "other processes are waited for by looking again; wait_for has the deadline"
)]

// Starts CAs and sidecars as processes, and speaks HTTP/1.1 to them.
mod harness;

// Exit codes, texts and JSON of the commands that end.
mod cli;
// Configuration files: the reference file, and every problem of a bad one.
mod config;
// Registration entries on the command line and in files.
mod entries;
// Identities for the processes of a node.
mod agent;
// Enrolment and issuance over restarts and kills.
mod issuance;
// What passes, what is refused, and changes while traffic flows.
mod policy;
// Opaque TCP.
mod tcp;
// gRPC with tonic.
mod grpc;
// 429 and what comes with it.
mod limits;
// Identities rotate, expire and come back.
mod rotation;
// The CA's root and intermediate are replaced.
mod rotation_authority;
// What is revoked beside a running CA.
mod revocation;
// A CA is restored from an older backup.
mod rollback;
// What is said of a backup before it is needed.
mod drill;
// Old audit records go to files.
mod archive;
// SIGTERM.
mod drain;
// A new process in the place of one that runs.
mod upgrade;
// The administration port, its socket, and the access log.
mod admin;
// What peers write does not become what the logs say.
mod logs;
// Names that clients make up, in metrics and memory.
mod cardinality;
// With programs we did not write; needs `tests/run`, which installs them.
#[cfg(feature = "real-programs")]
mod real;
