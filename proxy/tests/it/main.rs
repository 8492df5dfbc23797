//! The data path through its public API, over real sockets on loopback, with certificates minted here.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod h2_frames; // HTTP/2 as octets.
mod harness; // A CA, sidecars, an app that echoes, and callers.
mod mutations; // Messages to fool a reader with.
mod transcript; // What a reader made of a connection.

mod across; // HTTP/1.1 at both ends and HTTP/2 between.
mod admin; // The operator's port, out of reach through the others.
mod corpus; // Every HTTP/1.1 row of the bypass corpus.
mod deadlines; // gRPC calls end when their callers say.
mod discovery; // Endpoints found by name and in files, while they change and when nobody knows them.
mod drain; // Nothing in flight is lost; whatever hangs is cut.
mod external; // Servers outside the mesh: which of them are believed, what they learn, and what is refused.
mod framing; // Raw HTTP/1.1 messages that two servers could end in different places.
mod h1_oracle; // hyper reads the same bytes.
mod h1_segments; // The verdict does not depend on how bytes were cut.
mod h2_errors; // Frames that break HTTP/2.
mod h2_fields; // Requests in HTTP/2 that HTTP/1 would read otherwise.
mod h2_floods; // Frames that are allowed, and too many.
mod inbound; // Who gets in, what is refused, what the app sees.
mod lanes; // HTTP/2 connections to sidecars and apps: how many, and for how long.
mod loops; // Sidecars that lead to each other.
mod messages; // What HTTP allows between two servers, and what they must not do to each other.
mod outbound; // Where the workload may go, and how identities rotate under it.
mod permissive; // Ports that take plain text, too: what that gets, and what nobody gets by it.
mod proof; // Streams that outlive their certificates, and those that must not.
mod resilience; // Endpoints that fail in each way, and what may be asked again.
mod revocation; // Peers whose certificates are revoked while they are connected.
mod spoof; // Fields that claim an identity, in every spelling.
mod stalled; // Bodies that stop moving, in either direction.
mod strangers; // Certificates that let nobody in.
mod tcp; // Bytes that nobody looks into: who may send them, and for how long.
mod upgrade; // WebSockets and their like, and HTTP/1.0: what a port takes only if its profile says so.
