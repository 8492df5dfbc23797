-- Version 7: recovery of expired certificates.

-- The entry by which a certificate was issued, if by any.
ALTER TABLE attested ADD COLUMN entry TEXT;
