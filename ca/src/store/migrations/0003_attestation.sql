-- Version 3: attestation.

-- Certificates of identities that others vouched for, and who did. Goes with the certificate.
CREATE TABLE attested (
    serial   TEXT PRIMARY KEY REFERENCES certificate (serial) ON DELETE CASCADE,
    attestor TEXT NOT NULL
) STRICT;

-- Registration entries: what has to be proven for an identity. The document is JSON.
CREATE TABLE entry (
    name       TEXT PRIMARY KEY,
    spiffe_id  TEXT NOT NULL,
    document   TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX entry_by_id ON entry (spiffe_id);
