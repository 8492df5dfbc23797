//! Until when a gRPC call is wanted: `grpc-timeout` of its request (gRPC over HTTP/2, "Requests").
//!
//! Servers differ on a value that is not well formed: some read it, some take it for no limit at all. So it is rejected, and
//! so is a second one.

use crate::error::Failure;
use crate::normalize::Rejection;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;
use tokio::time::Instant;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Digits that a value may have.
const MOST_DIGITS: usize = 8;
/// What those cannot write any more.
const TOO_MANY: u128 = 100_000_000;

/// Units and their nanoseconds, from the finest.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// How long the caller waits for the whole call. None: for as long as it takes.
pub(crate) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Rejection> {
    let mut values = headers.get_all(GRPC_TIMEOUT).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match read(value.as_bytes()) {
            Some(timeout) => Ok(Some(timeout)),
            None => Err(Rejection::GrpcTimeout),
        },
        (Some(_), Some(_)) => Err(Rejection::GrpcTimeout),
    }
}

/// Tells the next hop what is left of a call that is wanted until `ends`: never nothing, and never more than there is.
///
/// # Errors
/// Nothing is left.
pub(crate) fn pass_on(headers: &mut HeaderMap, ends: Instant) -> Result<(), Failure> {
    let left = ends.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Failure::DeadlineExceeded);
    }
    headers.insert(GRPC_TIMEOUT, written(left));
    Ok(())
}

fn read(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let (_, nanos) = UNITS.iter().find(|(known, _)| known == unit)?;
    if digits.is_empty() || digits.len() > MOST_DIGITS {
        return None;
    }
    let mut number = 0;
    for digit in digits {
        number = number * 10 + u128::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    let (nanos, second) = (number * nanos, 1_000_000_000);
    // Both fit: eight digits of hours are 10^12 seconds.
    Some(Duration::new(
        u64::try_from(nanos / second).ok()?,
        u32::try_from(nanos % second).ok()?,
    ))
}

/// In the finest unit that has room for it, rounded down.
fn written(left: Duration) -> HeaderValue {
    let nanos = left.as_nanos();
    let fitting = UNITS.iter().find(|(_, unit)| nanos / unit < TOO_MANY);
    let (unit, number) = match fitting {
        Some((unit, length)) => (*unit, nanos / length),
        None => (b'H', TOO_MANY - 1),
    };
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(number).as_bytes();
    let mut value = [unit; MOST_DIGITS + 1];
    value[..digits.len()].copy_from_slice(digits);
    HeaderValue::from_bytes(&value[..=digits.len()]).expect("digits and a letter are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_timeout_is_one_to_eight_digits_and_a_unit() {
        for (value, expected) in [
            ("1H", Some(SECOND * 3600)),
            ("2M", Some(SECOND * 120)),
            ("3S", Some(SECOND * 3)),
            ("4m", Some(SECOND / 250)),
            ("5u", Some(SECOND / 200_000)),
            ("6n", Some(Duration::from_nanos(6))),
            ("00000001S", Some(SECOND)),
            ("99999999H", Some(SECOND * 3600 * 99_999_999)),
            ("0S", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("5", None),
            ("5s", None),
            ("5h", None),
            ("5 S", None),
            (" 5S", None),
            ("+5S", None),
            ("-5S", None),
            ("1.5S", None),
            ("5SS", None),
            ("5ms", None),
            ("100000000n", None),
            ("٥S", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(
                GRPC_TIMEOUT,
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
            let expected = expected.map(Some).ok_or(Rejection::GrpcTimeout);
            assert_eq!(timeout(&headers), expected, "{value:?}");
        }
    }

    #[test]
    fn two_timeouts_are_none() {
        let mut headers = HeaderMap::new();
        for _ in 0..2 {
            headers.append(GRPC_TIMEOUT, HeaderValue::from_static("1S"));
        }
        assert_eq!(timeout(&headers), Err(Rejection::GrpcTimeout));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        let over = pass_on(&mut headers, Instant::now());
        assert!(matches!(over, Err(Failure::DeadlineExceeded)), "{over:?}");
        assert!(headers.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_no_more_and_not_as_nothing(nanos in 1..u64::MAX, fewer in 0..64_u32) {
            let left = Duration::from_nanos((nanos >> fewer).max(1));
            let read = read(written(left).as_bytes()).unwrap();
            prop_assert!(!read.is_zero());
            prop_assert!(read <= left);
            // Five digits are left when the next unit begins.
            prop_assert!(left - read <= left / 100_000, "{read:?} of {left:?}");
        }
    }
}
