use super::*;

#[tokio::test]
async fn a_join_token_brings_a_certificate_over_either_version_of_http() {
    let ca = Ca::start().await;
    for alpn in [HTTP1, HTTP2] {
        let workload = Workload::new();
        let request = workload.request(CART, &ca.token(CART).await);
        let request = post("/v1/issue", issue_json(&request).to_string());
        let reply = send(&ca, None, alpn, request).await;
        assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
        assert_eq!(reply.headers["content-type"], "application/json");
        let svid = workload.leaf.svid(reply.chain());
        let bundle = ca.bundle();
        bundle
            .verify(svid.chain(), Usage::Client, SystemTime::now())
            .unwrap();
        assert_eq!(svid.id(), &id(CART));

        let json = reply.json();
        let number = |value: &Value| value.as_str().unwrap().parse::<i64>().unwrap();
        assert_eq!(
            number(&json["bundle"]["sequence"]),
            bundle.sequence() as i64
        );
        let renew_at = number(&json["certificate"]["renewAtUnixMs"]);
        assert!(number(&json["serverTimeUnixMs"]) < renew_at);
        assert!(renew_at < number(&json["certificate"]["notAfterUnixMs"]));
    }
    assert_eq!(ca.metrics.issued(Call::Issue), 2);
}

#[tokio::test]
async fn keys_and_requests_may_be_pem_and_a_chain_is_given_as_pem_to_who_asks() {
    let ca = Ca::start().await;
    let workload = Workload::new();
    let request = workload.request(CART, &ca.token(CART).await);
    let pem = |label: &str, der: &[u8]| {
        let text = STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    };
    let mut json = issue_json(&request);
    json["csr"] = pem("CERTIFICATE REQUEST", &request.csr).into();
    json["enrolmentKey"] = pem("PUBLIC KEY", &request.enrolment_key).into();
    let request = as_pem(post("/v1/issue", json.to_string()));
    let reply = send(&ca, None, HTTP1, request).await;
    assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
    assert_eq!(
        reply.headers["content-type"],
        "application/pem-certificate-chain"
    );
    let certificates = |pem: &[u8]| {
        let certificates = CertificateDer::pem_slice_iter(pem);
        certificates.collect::<Result<Vec<_>, _>>().unwrap()
    };
    let chain = certificates(&reply.body);
    ca.bundle()
        .verify(&chain, Usage::Client, SystemTime::now())
        .unwrap();
    let renew_at = reply.headers["tipstaff-renew-at-unix-ms"].to_str().unwrap();
    assert!(renew_at.parse::<u64>().unwrap() > 1_700_000_000_000);

    let bundle = send(&ca, None, HTTP1, as_pem(get("/v1/bundle"))).await;
    assert_eq!(certificates(&bundle.body), ca.bundle().authorities());
}

#[tokio::test]
async fn a_certificate_is_renewed_for_whom_the_connection_proves_whatever_the_csr_says() {
    let ca = Ca::start().await;
    let svid = ca.identity(CART).await;
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::default();
    let other = "spiffe://demo.test/ns/shop/sa/payments".try_into().unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(other)];
    let csr = params.serialize_request(&key).unwrap();

    let request = post("/v1/renew", renew_json(csr.der()));
    let reply = send(&ca, Some(&svid), HTTP1, request).await;
    assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
    let chain: Vec<_> = reply
        .chain()
        .into_iter()
        .map(CertificateDer::from)
        .collect();
    let leaf = ca
        .bundle()
        .verify(&chain, Usage::Client, SystemTime::now())
        .unwrap();
    assert_eq!(leaf.id, id(CART));
    assert_eq!(ca.metrics.issued(Call::Renew), 1);

    // An identity is nothing that a request can name.
    let named = json!({"csr": STANDARD.encode(csr.der()), "spiffeId": "spiffe://demo.test/ns/shop/sa/payments"});
    let reply = send(
        &ca,
        Some(&svid),
        HTTP1,
        post("/v1/renew", named.to_string()),
    )
    .await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
}
