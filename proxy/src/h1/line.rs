//! Lines that end in CRLF, and only there.

/// Why bytes are not a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineError {
    BareCr,
    BareLf,
    TooLong,
}

/// Where the line from `start` ends: the position of its CRLF, at most `limit` bytes on. `None`: more bytes are needed.
///
/// `scanned` is how far earlier calls have looked; it makes the calls for one line linear in its length together. Errors
/// have the order of the bytes that show them, so that it does not matter how many bytes came at once.
pub(super) fn find_end(
    input: &[u8],
    start: usize,
    scanned: &mut usize,
    limit: usize,
) -> Result<Option<usize>, LineError> {
    let last = start.saturating_add(limit);
    let window = input.len().min(last.saturating_add(1));
    let unread = input.get(*scanned..window).unwrap_or_default();
    let Some(at) = memchr::memchr2(b'\r', b'\n', unread) else {
        *scanned = window;
        return if input.len() > last {
            Err(LineError::TooLong)
        } else {
            Ok(None)
        };
    };
    let at = *scanned + at;
    match (input[at], input.get(at + 1)) {
        (b'\n', _) => Err(LineError::BareLf),
        (_, Some(b'\n')) => Ok(Some(at)),
        (_, Some(_)) => Err(LineError::BareCr),
        (_, None) => {
            *scanned = at;
            Ok(None)
        }
    }
}
