-- Version 5: the keys that vouch for JWT-SVIDs. The public parts alone; each process of the CA has its own, in memory.
CREATE TABLE jwt_key (
    kid        TEXT PRIMARY KEY,
    point      BLOB NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
