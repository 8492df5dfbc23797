use super::*;

#[tokio::test]
async fn a_refusal_has_the_code_the_sentence_and_the_reason_that_grpc_gives() {
    let ca = Ca::start().await;
    let workload = Workload::new();
    let good = workload.request(CART, &ca.token(CART).await);
    let with = |change: fn(&mut IssueRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    let unknown = ca::token::JoinToken::generate().reveal().to_string();
    for (request, status) in [
        (
            with(|request| request.spiffe_id = "https://demo.test/".to_owned()),
            400,
        ),
        (with(|request| request.csr = b"no request".to_vec()), 400),
        (with(|request| request.enrolment_proof.clear()), 400),
        (
            with(|request| request.join_token = "secret".to_owned()),
            400,
        ),
        (with(|request| request.join_token.clear()), 401),
        (workload.request(CART, &unknown), 401),
        (
            workload.request("spiffe://demo.test/other", &good.join_token),
            403,
        ),
        (
            workload.request("spiffe://demo.test/tipstaff/ca", &good.join_token),
            403,
        ),
    ] {
        let reply = post("/v1/issue", issue_json(&request).to_string());
        let reply = send(&ca, None, HTTP2, reply).await;
        let said = ca.connect(None).await.issue(request).await.unwrap_err();
        let reason = said.metadata().get("tipstaff-reason").unwrap();
        let expected = (
            i64::from(i32::from(said.code())),
            said.message().to_owned(),
            reason.to_str().unwrap().to_owned(),
        );
        assert_eq!(reply.refusal(), expected);
        assert_eq!(reply.status, status, "{expected:?}");
    }
    let csr = LeafKey::new().csr;
    let reply = send(&ca, None, HTTP1, post("/v1/renew", renew_json(&csr))).await;
    let renewal = RenewRequest {
        csr,
        ..RenewRequest::default()
    };
    let said = ca.connect(None).await.renew(renewal).await.unwrap_err();
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert_eq!(reply.refusal().1, said.message());
    assert_eq!(ca.metrics.refused(Reason::ClientCertificate), 2);
}

#[tokio::test]
async fn what_is_not_the_described_request_is_refused_before_anything_is_done() {
    let ca = Ca::start_with(Options {
        refusals_per_minute: 1000,
        ..Options::default()
    })
    .await;
    let token = ca.token(CART).await;
    let good = issue_json(&Workload::new().request(CART, &token)).to_string();
    let before = ca.audit();
    let deep = format!(
        "{{\"attestation\": {}{}}}",
        "[".repeat(8000),
        "]".repeat(8000)
    );
    let twice = good.replacen('{', "{\"spiffeId\": \"spiffe://demo.test/other\", ", 1);
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (body, what) in [
        (
            good.replacen('{', "{\"surprise\": 1, ", 1).into_bytes(),
            "an unknown key",
        ),
        (
            good.replace("spiffeId", "spiffe_id").into_bytes(),
            "another spelling",
        ),
        (
            good.replace("\"ttlSeconds\":0", "\"ttlSeconds\":-1")
                .into_bytes(),
            "a negative number",
        ),
        (
            good.replace("\"ttlSeconds\":0", "\"ttlSeconds\":1e3")
                .into_bytes(),
            "a fraction",
        ),
        (
            good.replace("\"ttlSeconds\":0", "\"ttlSeconds\":\"5\"")
                .into_bytes(),
            "a number as text",
        ),
        (
            good.replace("\"ttlSeconds\":0", "\"ttlSeconds\":null")
                .into_bytes(),
            "null",
        ),
        (twice.into_bytes(), "a key that comes twice"),
        (format!("{good}{good}").into_bytes(), "two objects"),
        (format!("[{good}]").into_bytes(), "a list"),
        (format!("[\"{CART}\"]").into_bytes(), "fields in order"),
        (deep.into_bytes(), "deep nesting"),
        (utf16, "UTF-16"),
        (
            [b"\xef\xbb\xbf", good.as_bytes()].concat(),
            "a byte order mark",
        ),
        (
            good.replace("demo.test", "demo.test\u{0}").into_bytes(),
            "a control character",
        ),
        ([&b"{\"spiffeId\": \"\xff\xfe\"}"[..]].concat(), "no UTF-8"),
        (b"{\"attestation\": {}}".to_vec(), "no evidence"),
        (
            b"{\"attestation\": {\"oidcToken\": \"a\", \"kubernetesToken\": \"b\"}}".to_vec(),
            "two kinds of evidence",
        ),
        (b"".to_vec(), "nothing"),
    ] {
        let reply = send(&ca, None, HTTP1, post("/v1/issue", body)).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{what}");
        let (code, sentence, reason) = reply.refusal();
        assert_eq!((code, &*reason), (3, "malformed_message"), "{what}");
        assert!(!sentence.contains(&token), "{what}: the token is repeated");
    }
    assert_eq!(ca.audit().records, before.records);
    // None of that has used the token up.
    let reply = send(&ca, None, HTTP1, post("/v1/issue", good)).await;
    assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
}

#[tokio::test]
async fn only_the_listed_paths_methods_and_content_types_count() {
    let ca = Ca::start_with(Options {
        refusals_per_minute: 1000,
        ..Options::default()
    })
    .await;
    let good = issue_json(&Workload::new().request(CART, &ca.token(CART).await)).to_string();
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/issue/",
        "//v1/issue",
        "/v1/./issue",
        "/v1/x/../issue",
        "/v1/%69ssue",
        "/V1/issue",
        "/v1/issue?",
        "/v1/issue?a=b",
        "/v1/issue;a",
        "/tipstaff.ca.v1.CertificateAuthority/Issue",
        "/tipstaff.ca.v1.Administration/CreateEntry",
    ] {
        for alpn in [HTTP1, HTTP2] {
            let reply = send(&ca, None, alpn, post(path, good.clone())).await;
            assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}");
            assert_eq!(reply.refusal().2, "unknown_method");
        }
    }
    for (path, method, allowed) in [
        ("/v1/issue", "GET", "POST"),
        ("/v1/renew", "PUT", "POST"),
        ("/v1/bundle", "POST", "GET"),
        ("/bundle", "DELETE", "GET"),
        ("/v1/bundle", "HEAD", "GET"),
    ] {
        let mut request = post(path, good.clone());
        *request.method_mut() = method.parse().unwrap();
        let reply = send(&ca, None, HTTP2, request).await;
        assert_eq!(
            reply.status,
            StatusCode::METHOD_NOT_ALLOWED,
            "{method} {path}"
        );
        assert_eq!(reply.headers["allow"], allowed);
    }
    for types in [
        &[][..],
        &["text/plain"],
        &["application/x-www-form-urlencoded"],
        &["application/jsonx"],
        &["application/json; charset=utf-16"],
        &["application/json; charset=utf-8; a=b"],
        &["application/json", "application/json"],
        &["application/grpc"],
    ] {
        let mut request = post("/v1/issue", good.clone());
        request.headers_mut().remove("content-type");
        for value in types {
            request
                .headers_mut()
                .append("content-type", value.parse().unwrap());
        }
        let reply = send(&ca, None, HTTP1, request).await;
        assert_eq!(
            reply.status,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "{types:?}"
        );
    }
    let mut compressed = post("/v1/issue", good.clone());
    compressed
        .headers_mut()
        .insert("content-encoding", "gzip".parse().unwrap());
    let reply = send(&ca, None, HTTP1, compressed).await;
    assert_eq!(reply.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let mut spelt_out = post("/v1/issue", good);
    let json = "Application/JSON; charset=UTF-8".parse().unwrap();
    spelt_out.headers_mut().insert("content-type", json);
    assert_eq!(
        send(&ca, None, HTTP1, spelt_out).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn refusals_cost_what_they_cost_over_grpc() {
    let ca = Ca::start_with(Options {
        refusals_per_minute: 10,
        ..Options::default()
    })
    .await;
    let svid = ca.identity(CART).await;
    let mut statuses = Vec::new();
    for _ in 0..15 {
        statuses.push(send(&ca, None, HTTP1, post("/v1/issue", "{}")).await.status);
    }
    assert_eq!(statuses[9], StatusCode::BAD_REQUEST);
    assert_eq!(statuses[14], StatusCode::TOO_MANY_REQUESTS);
    let said = ca
        .connect(None)
        .await
        .issue(IssueRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        said.code(),
        tonic::Code::ResourceExhausted,
        "one budget for both ways"
    );
    let reply = send(&ca, None, HTTP1, get("/bundle")).await;
    assert_eq!(reply.status, 429);
    let wait = reply.headers["retry-after"].to_str().unwrap();
    assert!((1..=60).contains(&wait.parse::<u64>().unwrap()), "{wait}");

    // Who is known has a budget of its own, and what it is refused is on record.
    let before = ca.audit();
    let reply = send(&ca, Some(&svid), HTTP1, post("/v1/renew", "{}")).await;
    assert_eq!(reply.refusal().2, "invalid_csr");
    let reply = send(&ca, Some(&svid), HTTP1, post("/v1/renew", "{\"csr\": 1}")).await;
    assert_eq!(reply.refusal().2, "malformed_message");
    assert_eq!(ca.audit().records, before.records + 2);
}
