use super::*;
use tonic::metadata::MetadataMap;

fn refused(code: Code, pushback: &'static str) -> AttemptError {
    let mut metadata = MetadataMap::new();
    metadata.insert(REASON_METADATA, "overloaded".parse().unwrap());
    metadata.insert(RETRY_METADATA, pushback.parse().unwrap());
    AttemptError::from_status(Status::with_metadata(code, "", metadata))
}

fn refusal(pushback: &'static str) -> AttemptError {
    refused(Code::ResourceExhausted, pushback)
}

#[test]
fn a_refusal_tells_when_to_come_back_and_says_nothing_of_the_svid() {
    let refused = refusal("1500");
    assert_eq!(refused.retry_after(), Some(Duration::from_millis(1500)));
    assert!(!refused.blames_svid());
    for nonsense in ["-1", "", "soon", "99999999999999999999999"] {
        assert_eq!(refusal(nonsense).retry_after(), None, "{nonsense}");
    }
}

#[test]
fn an_expired_certificate_is_recovered_when_nobody_vouches_and_not_when_the_ca_is_busy() {
    let unread = ProveError::NoText("token".into());
    assert!(AttemptError::Prove(unread).leaves_nobody_to_vouch());
    for (code, nobody) in [
        (Code::Unauthenticated, true),
        (Code::PermissionDenied, true),
        (Code::Unavailable, true),
        (Code::ResourceExhausted, false),
        (Code::DeadlineExceeded, false),
        (Code::Internal, false),
        (Code::InvalidArgument, false),
    ] {
        let refused = refused(code, "1500");
        assert_eq!(refused.leaves_nobody_to_vouch(), nobody, "{code:?}");
    }
    let cut_off = AttemptError::from_status(Status::unavailable("gone"));
    for error in [cut_off, AttemptError::Timeout, AttemptError::Incomplete] {
        assert!(!error.leaves_nobody_to_vouch(), "{error}");
    }
}
