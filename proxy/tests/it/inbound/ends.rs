use super::*;

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let mesh = Fixture::new(&grant_all()).await;
    let short = mesh
        .authority
        .svid(FRONTEND, Life::For(Duration::from_secs(3)));
    let mut caller = mesh.caller(&short).await.unwrap();
    assert_eq!(caller.get(HOST, "/a").await.status, StatusCode::OK);
    let closed = async {
        while !caller.is_closed() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(4), closed)
        .await
        .expect("closed at its end");
}

/// Each answer takes from the turn of the connection's task, and a timer that is asked at the end of a turn must hear all the same.
#[tokio::test]
async fn a_flight_of_requests_does_not_make_a_connection_outlive_its_certificate() {
    let mesh = Fixture::new(&grant("allow: [{methods: [GET], path: /a}]")).await;
    let life = Life::For(Duration::from_secs(3));
    let short = mesh.authority.svid(FRONTEND, life);
    let mut caller = tls(
        mesh.sidecar.inbound,
        &mesh.authority,
        Some(&short),
        b"http/1.1",
    )
    .await
    .unwrap();
    let flight = format!("GET /b HTTP/1.1\r\nHost: {HOST}\r\n\r\n").repeat(500);
    caller.write_all(flight.as_bytes()).await.unwrap();
    let mut answers = Vec::new();
    let closed = caller.read_to_end(&mut answers);
    let closed = tokio::time::timeout(Duration::from_secs(10), closed).await;
    let _ = closed.expect("closed at its end");
    let answers = String::from_utf8_lossy(&answers);
    assert_eq!(answers.matches("HTTP/1.1 403").count(), 500);
}

#[tokio::test]
async fn a_slow_hello_and_a_slow_head_are_cut_off() {
    let mesh = Fixture::with(&grant_all(), |config| {
        config.timeouts.tls_hello = Duration::from_millis(100);
        config.timeouts.request_head = Duration::from_millis(100);
    })
    .await;
    let mut silent = TcpStream::connect(mesh.sidecar.inbound).await.unwrap();
    assert_eq!(head(&mut silent).await, "");

    let svid = Some(&mesh.frontend);
    let mut slow = tls(mesh.sidecar.inbound, &mesh.authority, svid, b"http/1.1")
        .await
        .unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
    let answer = head(&mut slow).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
        "{answer}"
    );
}

#[tokio::test]
async fn without_an_identity_of_its_own_a_sidecar_serves_nobody() {
    let mesh = Fixture::new(&grant_all()).await;
    assert!(mesh.is_served(Some(&mesh.frontend)).await);
    mesh.sidecar.svid.send_replace(None);
    assert!(!mesh.is_served(Some(&mesh.frontend)).await);
}
