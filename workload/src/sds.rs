//! Envoy's secret discovery service (SDS v3): the same identities and bundles, as Envoy wants them.
//!
//! Names are SPIRE's, so that configurations need no change: `default` is the caller's first certificate and a SPIFFE ID that
//! of this identity; `ROOTCA` is the caller's own trust domain and `spiffe://<trust domain>` any that it knows; `ALL` is
//! all of them together, kept apart by Envoy's SPIFFE validator.

mod conversation;
mod delta;
mod secrets;
mod stream;

use crate::call::Entitlement;
use crate::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use crate::proto::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryService;
use futures_util::stream::Stream;
use std::pin::Pin;
use tonic::{Request, Response, Status, Streaming};

/// What all of these calls are about.
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Names that one stream may ask for. Envoy opens one for each secret.
const MOST_NAMES: usize = 64;
/// What they may be long together: a stream remembers them to its end. A SPIFFE ID has at most 2048.
const MOST_NAME_BYTES: usize = 8 * 1024;
/// A refusal is shown in the log up to here.
const MOST_SHOWN: usize = 200;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// One call of SDS, whose caller is known.
#[derive(Debug)]
pub(crate) struct Sds(pub(crate) Entitlement);

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type StreamSecretsStream = Answers<DiscoveryResponse>;

    async fn stream_secrets(
        &self,
        call: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let entitlement = self.0.clone();
        let answers = conversation::answers::<stream::Wants>(entitlement, call.into_inner());
        Ok(Response::new(Box::pin(answers)))
    }

    type DeltaSecretsStream = Answers<DeltaDiscoveryResponse>;

    async fn delta_secrets(
        &self,
        call: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let entitlement = self.0.clone();
        let answers = conversation::answers::<delta::Wants>(entitlement, call.into_inner());
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_secrets(
        &self,
        call: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        let mut entitlement = self.0.clone();
        let view = entitlement.view_with_svid()?;
        let request = call.into_inner();
        check_type(&request.type_url)?;
        check_names(&request.resource_names)?;
        let found = secrets::of(&view, &request.resource_names);
        if let Some(missing) = request
            .resource_names
            .iter()
            .find(|name| !found.iter().any(|secret| secret.name == **name))
        {
            return Err(Status::not_found(format!("no secret {missing:?}")));
        }
        Ok(Response::new(secrets::response(&found, String::new())))
    }
}

/// Envoy leaves it out of what it asks of SDS alone.
fn check_type(type_url: &str) -> Result<(), Status> {
    if type_url.is_empty() || type_url == SECRET {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "expected the type {SECRET}, found {type_url:?}"
    )))
}

fn check_names<'n>(names: impl IntoIterator<Item = &'n String>) -> Result<(), Status> {
    let lengths = names.into_iter().map(String::len);
    let (count, bytes) = lengths.fold((0, 0), |(count, bytes), length| (count + 1, bytes + length));
    if count <= MOST_NAMES && bytes <= MOST_NAME_BYTES {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "expected at most {MOST_NAMES} names in {MOST_NAME_BYTES} bytes, found {count} in {bytes}"
    )))
}

fn log_refusal(version: &str, reason: &str) {
    let shown: String = reason.chars().take(MOST_SHOWN).collect();
    tracing::warn!(version, reason = ?shown, "Envoy refuses what it was given");
}
