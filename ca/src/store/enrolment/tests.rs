use crate::Requester;
use crate::authority::IssueError;
use crate::lineage::LineageError;
use crate::store::tests::{ORDERS, id, key, new_ca, order, token};
use std::time::SystemTime;

/// The enrolment is read before a certificate is signed, and only the transaction that records it settles whether there is
/// one.
#[tokio::test]
async fn a_certificate_is_recorded_only_for_the_identity_that_its_key_is_enrolled_for() {
    let (_temporary, ca) = new_ca();
    let (enrolled, stranger) = (key(), key());
    let token = token(ca.store(), ORDERS).await;
    let (orders, now) = (id(ORDERS), SystemTime::now());
    let redeemed = ca.store().redeem(&token, &orders, &enrolled, now).await;
    assert_eq!(redeemed.unwrap().unwrap().spiffe_id, orders);
    let front = "spiffe://demo.test/ns/shop/sa/front";
    for (spiffe_id, key, expected) in [
        (ORDERS, &enrolled, true),
        (front, &enrolled, false),
        (ORDERS, &stranger, false),
    ] {
        let key = key.hash();
        match ca.issue(order(spiffe_id, Requester::Enrolment(key))).await {
            Ok(_) => assert!(expected, "{spiffe_id} {key}"),
            Err(IssueError::Lineage(refused)) => {
                assert!(!expected, "{spiffe_id} {key}");
                assert_eq!(refused, LineageError::NotEnrolled { key });
            }
            Err(error) => panic!("{error}"),
        }
    }
}
