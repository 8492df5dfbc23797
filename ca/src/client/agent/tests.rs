use super::*;
use tonic::metadata::MetadataMap;

fn refusal(pushback: &'static str) -> AttemptError {
    let mut metadata = MetadataMap::new();
    metadata.insert(REASON_METADATA, "overloaded".parse().unwrap());
    metadata.insert(RETRY_METADATA, pushback.parse().unwrap());
    let status = Status::with_metadata(Code::ResourceExhausted, "", metadata);
    AttemptError::from_status(status)
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
