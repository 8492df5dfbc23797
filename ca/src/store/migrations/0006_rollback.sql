-- Version 6: restored states.

-- One row. When it was last accepted that the ledger was set back (milliseconds since the Unix epoch; 0 if never), and a
-- head that this CA has signed and its ledger does not lead to: nothing is issued while there is one.
CREATE TABLE rollback (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    accepted_ms INTEGER NOT NULL,
    lost_seq    INTEGER,
    lost_hash   BLOB,
    lost_ms     INTEGER
) STRICT;

INSERT INTO rollback (id, accepted_ms) VALUES (1, 0);
