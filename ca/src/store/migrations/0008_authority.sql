-- Version 8: rotation of the CA's own certificates.

-- The CA's authorities, once the first rotation has begun; before, the files in its directory are all there is. The name is
-- the SHA-256 of the SubjectPublicKeyInfo, the role root or intermediate, the state requested, prepared, active, retiring or
-- retired; sequence is the first trust bundle that had a root, made_by operator or age. The key is a key file as it would
-- rest in the directory: sealed, or where in a token it is; NULL where it is elsewhere or was forgotten.
CREATE TABLE authority (
    name        TEXT PRIMARY KEY,
    role        TEXT NOT NULL,
    state       TEXT NOT NULL,
    parent      TEXT,
    certificate BLOB,
    request     TEXT,
    key_file    TEXT,
    sequence    INTEGER NOT NULL,
    since       INTEGER NOT NULL,
    made_by     TEXT NOT NULL
) STRICT;

-- Which authority signed a certificate; unknown of those from before this version.
ALTER TABLE certificate ADD COLUMN issuer TEXT;
