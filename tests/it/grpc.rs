//! gRPC through both sidecars, with tonic at both ends. With grpcio: `real/grpc.rs`.

use crate::harness::grpc::{App, Caller, Details, Note, OCTETS, REFUSAL};
use crate::harness::{Mesh, Options, PATIENCE, grant};
use std::time::Duration;
use tokio::time::timeout;
use tonic::codegen::tokio_stream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

/// More than a window of HTTP/2, less than tonic takes.
const LARGE: usize = 1 << 20;

struct Setting {
    app: App,
    caller: Caller,
    _mesh: Mesh,
}

impl Setting {
    async fn new() -> Self {
        let app = App::start();
        let once = "[{name: charge, key: [identity, grpcMethod], rate: 1/h, burst: 1}]";
        let may = |methods| format!("{{grpc: shop.v1.Orders, methods: [{methods}]}}");
        let all = may("Get, List, Total, Talk, Fail, Wait");
        let policy = [
            grant("calls", &all, "[]"),
            grant("charges", &may("Charge"), once),
        ];
        let mesh = Mesh::with(&Options {
            app: Some(app.address.to_string()),
            policy: policy.join("---\n"),
            ..Options::default()
        });
        let caller = Caller::connect(mesh.storefront.outbound, "orders").await;
        Self {
            app,
            caller,
            _mesh: mesh,
        }
    }

    /// What the app tells of its calls that wait.
    async fn wait(&mut self) -> String {
        let told = timeout(PATIENCE, self.app.waits.recv()).await;
        told.expect("in time").expect("the app lives")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_four_kinds_of_call_pass_with_their_metadata() {
    let mut setting = Setting::new().await;
    let caller = &mut setting.caller;
    let large = "x".repeat(LARGE);

    let mut request = Request::new(Note::new(&large));
    let said = request.metadata_mut();
    said.insert("asked-by", MetadataValue::from_static("the front"));
    said.insert_bin("asked-bin", MetadataValue::from_bytes(&OCTETS));
    let reply = caller.unary("Get", request).await.expect("an answer");
    let told = reply.metadata();
    assert_eq!(told.get("begun-for").expect("metadata"), "the front");
    let octets = told.get_bin("begun-bin").expect("binary metadata");
    assert_eq!(octets.to_bytes().expect("base64"), OCTETS.as_slice());
    assert_eq!(reply.into_inner().text, large);

    let numbers: Vec<_> = (0..1000).map(|n| n.to_string()).collect();
    assert_eq!(caller.list(1000).await.expect("notes"), numbers);
    assert_eq!(caller.list(0).await.expect("none"), Vec::<String>::new());

    let parts = tokio_stream::iter(vec![Note::new(&large); 5]);
    let total = caller.total(parts).await.expect("a sum");
    assert_eq!(total, (5 * LARGE).to_string());

    // Each is answered before the next is sent, and the app ends while the caller could go on.
    let mut talk = caller.talk().await.expect("a call");
    for word in ["one", "two", &large, "enough"] {
        let heard = talk.turn(word).await.expect("an answer");
        assert_eq!(heard.as_deref(), Some(word));
    }
    assert_eq!(talk.turn("never").await.expect("a good end"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_arrive_with_their_message_details_and_metadata_before_and_after_messages() {
    let mut setting = Setting::new().await;
    let at_once = setting
        .caller
        .unary("Fail", Request::new(Note::default()))
        .await;
    let mut talk = setting.caller.talk().await.expect("a call");
    for word in ["one", "two"] {
        let heard = talk.turn(word).await.expect("an answer");
        assert_eq!(heard.as_deref(), Some(word));
    }
    let after_messages = talk.turn("fail").await;
    for status in [
        at_once.expect_err("fails"),
        after_messages.expect_err("fails"),
    ] {
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), REFUSAL);
        let details: Details = prost::Message::decode(status.details()).expect("details");
        assert_eq!(details, Details::of_refusal());
        let octets = status.metadata().get_bin("ended-bin").expect("metadata");
        assert_eq!(octets.to_bytes().expect("base64"), OCTETS.as_slice());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_the_call_for_both_and_the_app_learns_what_is_left_of_it() {
    let mut setting = Setting::new().await;
    let mut request = Request::new(Note::default());
    request.set_timeout(Duration::from_millis(400));
    let ended = setting.caller.unary("Wait", request).await;
    // tonic's own clock calls it Cancelled, the sidecar's DeadlineExceeded.
    let code = ended.expect_err("nothing is answered").code();
    assert!(
        matches!(code, Code::DeadlineExceeded | Code::Cancelled),
        "{code:?}"
    );
    let given = left_of(&setting.wait().await);
    assert!(given <= Duration::from_millis(400), "{given:?}");
    assert_eq!(setting.wait().await, "ended");

    // Once an answer has begun tonic's clock has stopped: what ends this is the sidecar.
    let short = Duration::from_secs(1);
    let talk = setting
        .caller
        .talk_with(|request| request.set_timeout(short));
    let mut talk = talk.await.expect("a call");
    let heard = talk.turn("one").await.expect("an answer");
    assert_eq!(heard.as_deref(), Some("one"));
    let ended = timeout(PATIENCE, talk.hear()).await.expect("in time");
    let code = ended.expect_err("its time is over").code();
    assert_eq!(code, Code::DeadlineExceeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_its_caller_gives_up_ends_at_the_app() {
    let mut setting = Setting::new().await;
    let mut caller = setting.caller.clone();
    let call = tokio::spawn(async move {
        let request = Request::new(Note::default());
        caller.unary("Wait", request).await
    });
    assert_eq!(setting.wait().await, "", "no deadline of our own");
    call.abort();
    assert_eq!(setting.wait().await, "ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_policy_and_of_limits_are_statuses_of_their_own() {
    let mut setting = Setting::new().await;
    let mut ask = async |method| {
        let answer = setting
            .caller
            .unary(method, Request::new(Note::default()))
            .await;
        answer.map_err(|status: Status| status.code())
    };
    assert_eq!(ask("Delete").await.err(), Some(Code::PermissionDenied));
    // The app has no such method: the first call reaches it and says so.
    assert_eq!(ask("Charge").await.err(), Some(Code::Unimplemented));
    assert_eq!(ask("Charge").await.err(), Some(Code::ResourceExhausted));
    assert_eq!(ask("Fail").await.err(), Some(Code::FailedPrecondition));
}

/// A value of `grpc-timeout`: digits and a unit.
fn left_of(given: &str) -> Duration {
    let (digits, unit) = given
        .split_at_checked(given.len().saturating_sub(1))
        .unwrap_or_default();
    let digits: u64 = digits
        .parse()
        .unwrap_or_else(|_| panic!("a timeout: {given:?}"));
    match unit {
        "n" => Duration::from_nanos(digits),
        "u" => Duration::from_micros(digits),
        "m" => Duration::from_millis(digits),
        "S" => Duration::from_secs(digits),
        _ => panic!("a timeout: {given:?}"),
    }
}
