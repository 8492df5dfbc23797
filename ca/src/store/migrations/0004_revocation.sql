-- Version 4: revocation.

-- Certificates that were revoked, until some time after they have expired. The reason is a word of RFC 5280 section 5.3.1.
CREATE TABLE revocation (
    serial     TEXT PRIMARY KEY,
    spiffe_id  TEXT NOT NULL,
    not_after  INTEGER NOT NULL,
    revoked_at INTEGER NOT NULL,
    reason     TEXT NOT NULL
) STRICT;

CREATE INDEX revocation_by_end ON revocation (not_after);

-- Identities and lineages to which nothing is issued, and authorities (by the SHA-256 of their SubjectPublicKeyInfo) below
-- which nothing counts: kind is identity, lineage or authority. One that was lifted stays until its old certificates have
-- expired.
CREATE TABLE barred (
    kind      TEXT NOT NULL,
    name      TEXT NOT NULL,
    since     INTEGER NOT NULL,
    lifted_at INTEGER,
    reason    TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT;

-- The trust bundle that the holder of a certificate said to have.
ALTER TABLE descent ADD COLUMN acknowledged INTEGER NOT NULL DEFAULT 0;
