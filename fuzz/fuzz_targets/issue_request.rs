//! The messages a sidecar sends to the CA, and what the CA reads from their fields before it knows who asks.
#![no_main]

use ca::attest::check_proof;
use ca::csr::PublicKey;
use ca::proto::{IssueRequest, RenewRequest, WatchBundleRequest};
use fuzz::assert_one_line;
use identity::SpiffeId;
use prost::Message;
use std::fmt::Debug;

fuzz::target!(|bytes: &[u8]| {
    reads_back::<WatchBundleRequest>(bytes);
    if let Some(request) = reads_back::<RenewRequest>(bytes) {
        let _ = PublicKey::from_csr(&request.csr);
    }
    if let Some(request) = reads_back::<IssueRequest>(bytes) {
        enrol(&request);
    }
});

fn reads_back<M: Message + Default + PartialEq + Debug>(bytes: &[u8]) -> Option<M> {
    let message = match M::decode(bytes) {
        Ok(message) => message,
        Err(error) => {
            assert_one_line(&error);
            return None;
        }
    };
    let again = M::decode(message.encode_to_vec().as_slice());
    assert_eq!(again.as_ref(), Ok(&message));
    Some(message)
}

/// A proof counts for one identity and one request alone.
fn enrol(request: &IssueRequest) {
    let (Ok(id), Ok(key)) = (
        SpiffeId::parse(&request.spiffe_id),
        PublicKey::from_spki(&request.enrolment_key),
    ) else {
        return;
    };
    let proof = &request.enrolment_proof;
    if let Err(error) = check_proof(&key, proof, &id, &request.csr) {
        return assert_one_line(&error);
    }
    let other = SpiffeId::ca_server(&id.trust_domain());
    assert!(id == other || check_proof(&key, proof, &other, &request.csr).is_err());
    let longer = [request.csr.as_slice(), b"\0"].concat();
    assert!(check_proof(&key, proof, &id, &longer).is_err());
    assert!(check_proof(&key, &[proof.as_slice(), b"\0"].concat(), &id, &request.csr).is_err());
}
