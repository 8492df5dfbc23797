//! What `tipstaff ca list` and `inspect` show.
