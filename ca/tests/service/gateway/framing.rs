use super::*;

#[tokio::test]
async fn a_body_that_is_too_large_is_neither_waited_for_nor_kept() {
    let ca = Ca::start().await;
    let head = "POST /v1/issue HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
    // Announced and not sent: the answer comes all the same.
    let answer = raw(
        &ca,
        format!("{head}Content-Length: 16385\r\n\r\n").as_bytes(),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let large = post("/v1/issue", vec![b' '; 16 * 1024 + 1]);
    let reply = send(&ca, None, HTTP2, large).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(ca.metrics.refused(Reason::OversizedMessage), 2);
}

#[tokio::test]
async fn a_slow_caller_is_answered_when_its_time_is_up() {
    let ca = Ca::start_with(Options {
        request_timeout: Duration::from_millis(300),
        ..Options::default()
    })
    .await;
    let head = "POST /v1/issue HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
    let answer = raw(
        &ca,
        format!("{head}Content-Length: 100\r\n\r\n{{").as_bytes(),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert_eq!(ca.metrics.refused(Reason::Timeout), 1);
    // One that has not even sent its head is not answered.
    let answer = raw(&ca, head.as_bytes()).await;
    assert_eq!(
        answer.lines().next().unwrap_or("HTTP/1.1 408 "),
        "HTTP/1.1 408 "
    );
}

#[tokio::test]
async fn a_request_that_may_be_read_in_two_ways_is_refused() {
    let ca = Ca::start_with(Options {
        refusals_per_minute: 1000,
        request_timeout: Duration::from_secs(2),
        ..Options::default()
    })
    .await;
    let get = "GET /bundle HTTP/1.1\r\n";
    let next = "GET /bundle HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = raw(&ca, format!("{get}Host: a\r\n\r\n{next}").as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{answer}");
    let json = "Host: a\r\nContent-Type: application/json\r\n";
    let post = format!("POST /v1/issue HTTP/1.1\r\n{json}");
    for (request, what) in [
        (format!("{get}\r\n"), "no Host"),
        (format!("{get}Host: a\r\nHost: a\r\n\r\n"), "two Hosts"),
        (
            "GET /bundle HTTP/1.0\r\nHost: a\r\n\r\n".to_owned(),
            "HTTP/1.0",
        ),
        (
            format!("{get}Host: a\r\nContent-Length: 2\r\n\r\n{{}}"),
            "a GET with a body",
        ),
        (
            format!("{post}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"),
            "chunks",
        ),
        (
            format!(
                "{post}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
            ),
            "a length beside chunks",
        ),
        (
            format!("{post}Content-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            "a length that hides what comes after the chunks",
        ),
        (
            format!("{post}Transfer-Encoding: identity\r\n\r\n"),
            "an encoding that is none",
        ),
        (
            format!("{post}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}} "),
            "two lengths",
        ),
        (
            format!("{post}Content-Length: +2\r\n\r\n{{}}"),
            "a signed length",
        ),
        (
            format!("{get}Host: a\r\nX : b\r\n\r\n"),
            "a space before the colon",
        ),
        (
            format!("{get}Host: a\r\nX: b\r\n folded\r\n\r\n"),
            "a folded line",
        ),
        (
            format!("{get}Host: a\r\n{}\r\n", "X: y\r\n".repeat(200)),
            "two hundred fields",
        ),
        (
            format!("{get}Host: a\r\nX: {}\r\n\r\n", "y".repeat(9000)),
            "a long field",
        ),
    ] {
        // Whoever stands between may take what follows for a part of it.
        let answer = raw(&ca, format!("{request}{next}").as_bytes()).await;
        let status = answer.get(9..12).unwrap_or("closed").to_owned();
        assert!(
            ["400", "431", "closed"].contains(&&*status),
            "{what}: {answer}"
        );
        assert!(
            answer.matches("content-length: ").count() <= 1,
            "{what}: {answer}"
        );
    }
}

#[tokio::test]
async fn requests_sent_in_one_piece_are_answered_one_after_the_other_and_nothing_of_a_body_is_one()
{
    let ca = Ca::start().await;
    let next = "GET /bundle HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let bare = "GET /bundle HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = raw(&ca, format!("{bare}{bare}{next}").as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 3, "{answer}");
    // Refused before its body is read: what is in the body is no request, and the connection ends or the body is skipped.
    let length = bare.len();
    let inside =
        format!("POST /bundle HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{bare}");
    let answer = raw(&ca, format!("{inside}{next}").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.matches("HTTP/1.1 200 ").count() <= 1, "{answer}");
}
