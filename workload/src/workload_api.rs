//! The SPIFFE Workload API (SPIFFE_Workload_API.md): X.509-SVIDs with their keys, JWT-SVIDs, and bundles.

mod jwt;

use crate::call::Calls;
use crate::holdings::{Svid, View};
use crate::proto::spiffe_workload_api_server::SpiffeWorkloadApi;
use crate::proto::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse,
};
use futures_util::stream::Stream;
use identity::TrustBundle;
use rustls_pki_types::CertificateDer;
use std::pin::Pin;
use tonic::{Request, Response, Status};

/// Section 4.4: whoever does not send it may have been made to call by someone else (SSRF).
const HEADER: &str = "workload.spiffe.io";

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The calls of one connection as the Workload API.
#[derive(Debug)]
pub(crate) struct WorkloadApi(pub(crate) Calls);

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Answers<X509svidResponse>;

    async fn fetch_x509svid(
        &self,
        call: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        check_header(&call)?;
        let mut entitlement = self.0.authenticate().await?;
        let first = entitlement.view_with_svid()?;
        let answers = entitlement.follow(first, View::is_same, x509_svids);
        Ok(Response::new(Box::pin(answers)))
    }

    type FetchX509BundlesStream = Answers<X509BundlesResponse>;

    async fn fetch_x509_bundles(
        &self,
        call: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        check_header(&call)?;
        let mut entitlement = self.0.authenticate().await?;
        let first = entitlement.view()?;
        let answers = entitlement.follow(first, View::has_same_bundles, x509_bundles);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_jwtsvid(
        &self,
        call: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        check_header(&call)?;
        let view = self.0.authenticate().await?.view()?;
        jwt::svids(&view, call.into_inner())
            .await
            .map(Response::new)
    }

    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_jwt_bundles(
        &self,
        call: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        check_header(&call)?;
        let mut entitlement = self.0.authenticate().await?;
        let first = entitlement.view()?;
        let answers = entitlement.follow(first, View::has_same_bundles, jwt::bundles);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn validate_jwtsvid(
        &self,
        call: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        check_header(&call)?;
        let view = self.0.authenticate().await?.view()?;
        jwt::validate(&view, &call.into_inner()).map(Response::new)
    }
}

/// Exactly once, and exactly `true`.
fn check_header<T>(call: &Request<T>) -> Result<(), Status> {
    let mut values = call.metadata().get_all(HEADER).iter();
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
