//! The X.509 profile of the Workload API, and who gets what.

use crate::harness::{
    JOBS, Root, Served, WEB, asked, asked_with, connect, identity, own_config, own_uid, soon,
    unfinished,
};
use identity::TrustBundle;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use time::Duration;
use tonic::Code;
use workload::proto::envoy::service::discovery::v3::DiscoveryRequest;
use workload::proto::{
    JwtsvidRequest, X509BundlesRequest, X509svid, X509svidRequest, X509svidResponse,
};
use workload::{Admits, Config, Entitled, FederatesWith, Selector};

async fn first(served: &Served) -> Result<X509svidResponse, tonic::Status> {
    let mut api = served.api().await;
    let call = asked(X509svidRequest::default());
    let mut answers = soon(api.fetch_x509svid(call)).await?.into_inner();
    Ok(soon(answers.message()).await?.unwrap())
}

fn ids(response: &X509svidResponse) -> Vec<&str> {
    let svids = response.svids.iter();
    svids.map(|svid| svid.spiffe_id.as_str()).collect()
}

#[tokio::test]
async fn a_workload_gets_its_certificate_key_and_bundle_and_the_next_ones() {
    let served = Served::start();
    let mut api = served.api().await;
    let call = asked(X509svidRequest::default());
    let mut answers = soon(api.fetch_x509svid(call)).await.unwrap().into_inner();
    let one = soon(answers.message()).await.unwrap().unwrap();
    let [
        X509svid {
            x509_svid,
            x509_svid_key,
            bundle,
            ..
        },
    ] = one.svids.as_slice()
    else {
        panic!("expected one, found {one:?}");
    };
    let domain = served.root.bundle.trust_domain().clone();
    let found = TrustBundle::from_der(domain, bundle, 1).unwrap();
    assert_eq!(found, *served.root.bundle);
    assert_eq!(ids(&one), [WEB]);

    let next = served.root.svid(WEB);
    served.change(|holdings| holdings.identities[0].svid = Some(Arc::clone(&next)));
    let two = soon(answers.message()).await.unwrap().unwrap();
    assert_eq!(two.svids[0].x509_svid, next.chain()[0].as_ref());
    assert_eq!(two.svids[0].x509_svid_key, next.key());
    assert_ne!(
        (&two.svids[0].x509_svid, &two.svids[0].x509_svid_key),
        (x509_svid, x509_svid_key)
    );

    let other = Root::new("domain.test", 2);
    served.change(|holdings| holdings.own = Arc::clone(&other.bundle));
    let three = soon(answers.message()).await.unwrap().unwrap();
    assert_eq!(
        three.svids[0].bundle,
        other.bundle.authorities()[0].as_ref()
    );
    served.stop().await;
    // The stream has ended with the server, and without an error that nobody caused.
    assert!(soon(answers.message()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_change_that_is_none_of_a_callers_business_sends_it_nothing() {
    let root = Root::new("domain.test", 1);
    let mut jobs = identity(JOBS, Some(root.svid(JOBS)));
    jobs.entitled = Entitled::Selected(vec![Selector::Uid(own_uid() + 1)]);
    let web = identity(WEB, Some(root.svid(WEB)));
    let served = Served::with(root, vec![web, jobs], own_config);
    let mut api = served.api().await;
    let call = asked(X509svidRequest::default());
    let mut answers = soon(api.fetch_x509svid(call)).await.unwrap().into_inner();
    soon(answers.message()).await.unwrap().unwrap();

    let [other, next] = [served.root.svid(JOBS), served.root.svid(WEB)];
    served.change(|holdings| holdings.identities[1].svid = Some(other));
    served.change(|holdings| holdings.identities[0].svid = Some(Arc::clone(&next)));
    // Had the first been told, it would come first.
    let answer = soon(answers.message()).await.unwrap().unwrap();
    assert_eq!(answer.svids[0].x509_svid, next.chain()[0].as_ref());
}

#[tokio::test]
async fn only_calls_with_the_metadata_of_the_specification_are_answered() {
    let served = Served::start();
    let mut api = served.api().await;
    for values in [&[][..], &["false"], &["True"], &["true", "true"]] {
        let call = asked_with(X509svidRequest::default(), values);
        let refused = soon(api.fetch_x509svid(call)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{values:?}");
        let call = asked_with(X509BundlesRequest::default(), values);
        let refused = soon(api.fetch_x509_bundles(call)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{values:?}");
        let call = asked_with(JwtsvidRequest::default(), values);
        let refused = soon(api.fetch_jwtsvid(call)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{values:?}");
    }
}

#[tokio::test]
async fn a_user_that_is_not_listed_is_denied() {
    let root = Root::new("domain.test", 1);
    let web = identity(WEB, Some(root.svid(WEB)));
    let served = Served::with(root, vec![web], |socket| Config {
        admits: Admits::Listed {
            uids: vec![own_uid() + 1],
            gids: Vec::new(),
        },
        ..own_config(socket)
    });
    assert_eq!(
        first(&served).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    let mut sds = served.sds().await;
    let refused = soon(sds.fetch_secrets(DiscoveryRequest::default())).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    let mode = std::fs::metadata(served.socket()).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Otherwise whoever can connect has memory held for what it never sends.
#[tokio::test]
async fn who_is_refused_is_told_so_before_it_has_sent_anything_and_is_rid_of_its_connection() {
    let served = Served::start();
    served.change(|holdings| {
        holdings.identities[0].entitled = Entitled::Selected(vec![Selector::Uid(own_uid() + 1)]);
    });
    for path in [
        "/SpiffeWorkloadAPI/FetchX509SVID",
        "/SpiffeWorkloadAPI/ValidateJWTSVID",
        "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets",
        "/nonsense",
    ] {
        let mut calls = connect(&served.socket()).await;
        let answer = calls.send(unfinished(path)).await;
        let code = Code::from_bytes(answer.headers()["grpc-status"].as_bytes());
        assert_eq!(code, Code::PermissionDenied, "{path}");
        drop(answer);
        calls.closed().await;
    }
}

#[tokio::test]
async fn a_caller_gets_the_identities_whose_selectors_all_hold() {
    let root = Root::new("domain.test", 1);
    let own_program = std::env::current_exe().unwrap();
    let entitled = |selectors: Vec<Selector>| {
        let mut jobs = identity(JOBS, Some(root.svid(JOBS)));
        jobs.entitled = Entitled::Selected(selectors);
        jobs.hint = "jobs".to_owned();
        jobs
    };
    let own = Selector::Uid(own_uid());
    let program = Selector::Path(own_program);
    let cases = [
        (vec![own.clone()], true),
        (vec![own.clone(), program.clone()], true),
        (
            vec![own.clone(), Selector::Path("/usr/bin/other".into())],
            false,
        ),
        (vec![own.clone(), Selector::Sha256([0; 32])], false),
        (vec![Selector::Uid(own_uid() + 1), program], false),
        (vec![], false),
    ];
    let all: Vec<_> = cases
        .iter()
        .map(|(selectors, gets)| (entitled(selectors.clone()), *gets))
        .collect();
    let served = Served::with(root, Vec::new(), own_config);
    for (identity, gets) in all {
        let text = format!("{:?}", identity.entitled);
        served.change(|holdings| holdings.identities = vec![identity]);
        match first(&served).await {
            Ok(response) => {
                assert!(gets, "{text}");
                assert_eq!(response.svids[0].hint, "jobs");
            }
            Err(refused) => {
                assert_eq!(
                    (refused.code(), gets),
                    (Code::PermissionDenied, false),
                    "{text}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_caller_that_loses_its_entitlement_is_told_so() {
    let served = Served::start();
    let mut api = served.api().await;
    let call = asked(X509svidRequest::default());
    let mut answers = soon(api.fetch_x509svid(call)).await.unwrap().into_inner();
    soon(answers.message()).await.unwrap().unwrap();
    served.change(|holdings| holdings.identities.clear());
    let refused = soon(answers.message()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn without_a_valid_certificate_there_is_nothing_yet_but_bundles() {
    let root = Root::new("domain.test", 1);
    let expired = root.svid_for(WEB, -Duration::MINUTE);
    let served = Served::with(root, vec![identity(WEB, None)], own_config);
    assert_eq!(first(&served).await.unwrap_err().code(), Code::Unavailable);
    served.change(|holdings| holdings.identities[0].svid = Some(expired));
    assert_eq!(first(&served).await.unwrap_err().code(), Code::Unavailable);

    let mut api = served.api().await;
    let call = asked(X509BundlesRequest::default());
    let mut answers = soon(api.fetch_x509_bundles(call))
        .await
        .unwrap()
        .into_inner();
    let bundles = soon(answers.message()).await.unwrap().unwrap().bundles;
    let own = served.root.bundle.authorities()[0].to_vec();
    assert_eq!(bundles, [("spiffe://domain.test".to_owned(), own)].into());
}

#[tokio::test]
async fn foreign_bundles_come_with_identities_that_federate_and_stay_apart() {
    let root = Root::new("domain.test", 1);
    let [partner, other] = ["partner.test", "other.test"].map(|name| Root::new(name, 7));
    let mut web = identity(WEB, Some(root.svid(WEB)));
    web.federates_with = FederatesWith::Named(vec![partner.bundle.trust_domain().clone()]);
    let served = Served::with(root, vec![web], own_config);
    served.change(|holdings| {
        holdings.federated = [&partner, &other]
            .map(|one| Arc::clone(&one.bundle))
            .to_vec();
    });
    let response = first(&served).await.unwrap();
    let der = |root: &Root| root.bundle.authorities()[0].to_vec();
    let expected = ("spiffe://partner.test".to_owned(), der(&partner));
    assert_eq!(response.federated_bundles, [expected].into());
    assert_eq!(response.svids[0].bundle, der(&served.root), "never merged");

    let mut api = served.api().await;
    let call = asked(X509BundlesRequest::default());
    let mut answers = soon(api.fetch_x509_bundles(call))
        .await
        .unwrap()
        .into_inner();
    let bundles = soon(answers.message()).await.unwrap().unwrap().bundles;
    assert_eq!(bundles.len(), 2);
    assert_eq!(bundles["spiffe://partner.test"], der(&partner));
}

#[tokio::test]
async fn nothing_that_is_printed_has_a_key_in_it() {
    let served = Served::start();
    let response = first(&served).await.unwrap();
    let key = format!("{:?}", &response.svids[0].x509_svid_key[40..60]);
    let printed = format!("{response:?}");
    assert!(printed.contains(WEB) && !printed.contains(key.trim_matches(['[', ']'])));
}

#[tokio::test]
async fn one_user_gets_half_of_the_places() {
    let root = Root::new("domain.test", 1);
    let web = identity(WEB, Some(root.svid(WEB)));
    let served = Served::with(root, vec![web], |socket| Config {
        max_connections: 4,
        ..own_config(socket)
    });
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut api = served.api().await;
        let call = asked(X509svidRequest::default());
        held.push(soon(api.fetch_x509svid(call)).await.unwrap());
    }
    let third = tokio::net::UnixStream::connect(served.socket())
        .await
        .unwrap();
    // Closed without a word.
    soon(third.readable()).await.unwrap();
    assert_eq!(third.try_read(&mut [0; 1]).unwrap(), 0);
    drop(held);
}
