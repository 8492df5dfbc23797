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
