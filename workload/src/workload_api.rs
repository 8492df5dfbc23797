//! The SPIFFE Workload API (SPIFFE_Workload_API.md): X.509-SVIDs with their keys, JWT-SVIDs, and bundles.

mod jwt;

use crate::call::Entitlement;
use crate::holdings::{Svid, View};
use crate::proto::spiffe_workload_api_server::SpiffeWorkloadApi;
use crate::proto::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse,
};
use futures_util::stream::Stream;
use http::HeaderMap;
use identity::TrustBundle;
use rustls_pki_types::CertificateDer;
use std::pin::Pin;
use tonic::{Request, Response, Status};

/// Section 4.4: whoever does not send it may have been made to call by someone else (SSRF).
const HEADER: &str = "workload.spiffe.io";

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// One call of the Workload API. Its metadata has passed [`check_header`], and its caller is known.
#[derive(Debug)]
pub(crate) struct WorkloadApi(pub(crate) Entitlement);

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Answers<X509svidResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let mut entitlement = self.0.clone();
        let first = entitlement.view_with_svid()?;
        let answers = entitlement.follow(first, View::is_same, x509_svids);
        Ok(Response::new(Box::pin(answers)))
    }

    type FetchX509BundlesStream = Answers<X509BundlesResponse>;

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let mut entitlement = self.0.clone();
        let first = entitlement.view()?;
        let answers = entitlement.follow(first, View::has_same_authorities, x509_bundles);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_jwtsvid(
        &self,
        call: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let view = self.0.clone().view()?;
        jwt::svids(&view, call.into_inner())
            .await
            .map(Response::new)
    }

    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let mut entitlement = self.0.clone();
        let first = entitlement.view()?;
        let answers = entitlement.follow(first, View::has_same_bundles, jwt::bundles);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn validate_jwtsvid(
        &self,
        call: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let view = self.0.clone().view()?;
        jwt::validate(&view, &call.into_inner()).map(Response::new)
    }
}

/// Exactly once, and exactly `true`.
pub(crate) fn check_header(headers: &HeaderMap) -> Result<(), Status> {
    let mut values = headers.get_all(HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "true" => Ok(()),
        _ => Err(Status::invalid_argument(
            "expected the metadata workload.spiffe.io: true",
        )),
    }
}

fn x509_svids(view: &View) -> X509svidResponse {
    X509svidResponse {
        svids: view
            .svids
            .iter()
            .map(|svid| x509_svid(svid, &view.own))
            .collect(),
        crl: Vec::new(),
        federated_bundles: view.federated.iter().map(|bundle| entry(bundle)).collect(),
    }
}

fn x509_svid(Svid { portable, hint }: &Svid, own: &TrustBundle) -> X509svid {
    X509svid {
        spiffe_id: portable.id().to_string(),
        x509_svid: concatenated(portable.chain()),
        x509_svid_key: portable.key().to_vec(),
        bundle: concatenated(own.authorities()),
        hint: hint.clone(),
    }
}

fn x509_bundles(view: &View) -> X509BundlesResponse {
    X509BundlesResponse {
        crl: Vec::new(),
        bundles: view.bundles().map(|bundle| entry(bundle)).collect(),
    }
}

/// By the SPIFFE ID of the trust domain.
fn entry(bundle: &TrustBundle) -> (String, Vec<u8>) {
    let id = format!("spiffe://{}", bundle.trust_domain());
    (id, concatenated(bundle.authorities()))
}

fn concatenated(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    let all = certificates.iter().flat_map(|der| der.iter());
    all.copied().collect()
}
