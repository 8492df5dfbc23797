//! Several attempts within the time of one request.

use super::*;
use proxy::config::Breaker;

const TRY: Duration = Duration::from_millis(200);

/// A front end that gives an attempt a fifth of what it gives a request.
fn impatient(authority: &Authority, endpoints: &[SocketAddr]) -> Sidecar {
    with(authority, endpoints, |service| {
        service.resilience.try_timeout = Some(TRY);
    })
}

fn get() -> http::request::Builder {
    Request::get("/a").header("host", HOST)
}

#[tokio::test]
async fn what_may_be_repeated_is_asked_of_another_endpoint_when_an_attempt_takes_too_long() {
    let authority = Authority::new();
    let (silent, asked) = orders(&authority, Way::Hangs).await;
    let (serving, _) = orders(&authority, Way::Serves).await;
    let frontend = impatient(&authority, &[silent, serving]);
    let mut workload = Caller::workload(frontend.outbound()).await;
    for _ in 0..10 {
        assert_eq!(workload.send(get()).await.unwrap().status, StatusCode::OK);
    }
    assert!(
        asked.load(Ordering::SeqCst) > 0,
        "the silent one was not asked"
    );
}

#[tokio::test]
async fn no_request_is_asked_more_often_than_it_may_be_however_long_attempts_take() {
    for (request, times) in [(post(), 1), (get(), 2)] {
        let authority = Authority::new();
        let (silent, asked) = orders(&authority, Way::Hangs).await;
        let frontend = impatient(&authority, &[silent]);
        let mut workload = Caller::workload(frontend.outbound()).await;
        let reply = timeout(SOON, workload.send(request))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT);
        assert!(reply.body.contains("response_timeout"), "{}", reply.body);
        assert_eq!(asked.load(Ordering::SeqCst), times);
    }
}

/// The attempt may end only where another begins.
#[tokio::test]
async fn what_may_not_be_repeated_is_waited_for_past_the_time_for_an_attempt() {
    for (request, times) in [(post(), 1), (get(), 2)] {
        let authority = Authority::new();
        let (slow, asked) = orders(&authority, Way::Dawdles).await;
        let frontend = impatient(&authority, &[slow]);
        let mut workload = Caller::workload(frontend.outbound()).await;
        let reply = timeout(SOON, workload.send(request))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        assert_eq!(asked.load(Ordering::SeqCst), times);
    }
}

/// Each attempt that took too long used to count as a failure of the endpoint, whether or not it was waited for.
#[tokio::test]
async fn an_endpoint_that_answers_after_the_time_for_an_attempt_is_not_left_alone() {
    for request in [post, get] {
        let authority = Authority::new();
        let (slow, _) = orders(&authority, Way::Dawdles).await;
        let frontend = with(&authority, &[slow], |service| {
            service.resilience.try_timeout = Some(TRY);
            let (failures, rest) = (2, SOON);
            service.resilience.breaker = Some(Breaker { failures, rest });
            service.timeout = SOON;
        });
        let mut workload = Caller::workload(frontend.outbound()).await;
        for _ in 0..4 {
            let reply = workload.send(request()).await.unwrap();
            assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        }
    }
}
