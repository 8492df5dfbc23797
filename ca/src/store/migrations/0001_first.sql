-- Times are seconds since the Unix epoch unless the name says otherwise.

-- What the CA did. A record's hash covers the hash of the one before it; see ledger.rs.
CREATE TABLE audit (
    seq      INTEGER PRIMARY KEY,
    time_ms  INTEGER NOT NULL,
    event    TEXT NOT NULL,
    previous BLOB NOT NULL,
    hash     BLOB NOT NULL
) STRICT;

-- Leaves that were issued. Written in the transaction of their audit record; swept some time after they have expired.
CREATE TABLE certificate (
    serial     TEXT NOT NULL UNIQUE,
    spiffe_id  TEXT NOT NULL,
    not_before INTEGER NOT NULL,
    not_after  INTEGER NOT NULL,
    renew_at   INTEGER NOT NULL,
    der        BLOB NOT NULL,
    audit_seq  INTEGER PRIMARY KEY REFERENCES audit (seq)
) STRICT;

CREATE INDEX certificate_by_end ON certificate (not_after);

-- Keys that may ask for certificates with one SPIFFE ID, named by the SHA-256 of their SubjectPublicKeyInfo.
CREATE TABLE enrolment (
    key_hash   BLOB PRIMARY KEY,
    spiffe_id  TEXT NOT NULL,
    ttl        INTEGER,
    created_at INTEGER NOT NULL
) STRICT;

-- Only the SHA-256 of a token is kept. A token is used once enrolled_key is set; swept long after it has expired.
CREATE TABLE join_token (
    hash         BLOB PRIMARY KEY,
    spiffe_id    TEXT NOT NULL,
    ttl          INTEGER,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    enrolled_key BLOB REFERENCES enrolment (key_hash),
    refusals     INTEGER NOT NULL DEFAULT 0
) STRICT;

-- One row. The trust bundle that clients get; its sequence only grows.
CREATE TABLE bundle (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    trust_domain TEXT NOT NULL,
    sequence     INTEGER NOT NULL,
    pem          TEXT NOT NULL
) STRICT;

-- One row. Makes renewal times unpredictable from serials alone.
CREATE TABLE renewal (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    secret BLOB NOT NULL
) STRICT;

-- What a running CA keeps in memory, and how often it has changed; see changes.rs.
CREATE TABLE change (
    topic   TEXT PRIMARY KEY,
    version INTEGER NOT NULL
) STRICT;
