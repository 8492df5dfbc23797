//! The Date field (RFC 9110 section 6.6.1): every response has one when it leaves.

use http::header::{DATE, Entry};
use http::{HeaderMap, HeaderValue};
use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

thread_local! {
    /// The second that was written last, and how.
    static LAST: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// Says when the response was made, if its author has not.
pub(crate) fn stamp(headers: &mut HeaderMap, now: impl FnOnce() -> SystemTime) {
    if let Entry::Vacant(place) = headers.entry(DATE) {
        place.insert(written(now()));
    }
}

fn written(now: SystemTime) -> HeaderValue {
    let second = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|(last, value)| {
        if *last != second || value.is_empty() {
            *last = second;
            *value = HeaderValue::try_from(httpdate::fmt_http_date(now))
                .unwrap_or_else(|_| HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"));
        }
        value.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_response_gets_the_date_it_lacks_and_keeps_the_one_it_has() {
        let mut headers = HeaderMap::new();
        let day = UNIX_EPOCH + Duration::from_secs(784_111_777);
        stamp(&mut headers, || day);
        assert_eq!(headers[DATE], "Sun, 06 Nov 1994 08:49:37 GMT");
        stamp(&mut headers, || day + Duration::from_secs(1));
        assert_eq!(headers[DATE], "Sun, 06 Nov 1994 08:49:37 GMT");
        headers.clear();
        stamp(&mut headers, || day + Duration::from_secs(1));
        assert_eq!(headers[DATE], "Sun, 06 Nov 1994 08:49:38 GMT");
    }
}
