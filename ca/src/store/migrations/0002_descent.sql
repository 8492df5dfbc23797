-- Version 2: lineages.

-- Where each certificate of a workload comes from, and with which key (SHA-256 of its SubjectPublicKeyInfo) it was asked
-- for. Goes with the certificate.
CREATE TABLE descent (
    serial      TEXT PRIMARY KEY REFERENCES certificate (serial) ON DELETE CASCADE,
    lineage     TEXT NOT NULL,
    predecessor TEXT,
    key_hash    TEXT NOT NULL
) STRICT;

CREATE INDEX descent_by_lineage ON descent (lineage);
CREATE INDEX descent_by_predecessor ON descent (predecessor);

-- Each certificate that is there begins a lineage of its own.
INSERT INTO descent (serial, lineage, predecessor, key_hash) SELECT serial, serial, NULL, '' FROM certificate;

-- Lineages to which nothing is issued: a certificate was renewed with a second key.
CREATE TABLE frozen_lineage (
    lineage   TEXT PRIMARY KEY,
    spiffe_id TEXT NOT NULL,
    serial    TEXT NOT NULL,
    successor TEXT NOT NULL,
    key_hash  TEXT NOT NULL,
    frozen_at INTEGER NOT NULL
) STRICT;
