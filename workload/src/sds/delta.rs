//! Delta: each response holds what is new to the client, and what is gone.

use super::conversation;
use super::{SECRET, check_names, check_type, log_refusal, secrets};
use crate::holdings::View;
use crate::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use std::collections::BTreeMap;
use tonic::Status;

/// What the client of one secret has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Has {
    /// It has just asked: it is told in any case.
    Asked,
    /// It has this version, or has refused it.
    Version(String),
    /// It was told that there is none.
    Nothing,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Wants {
    secrets: BTreeMap<String, Has>,
    nonce: u64,
}

impl conversation::Wants for Wants {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn take(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        check_type(&request.type_url)?;
        if let Some(error) = &request.error_detail {
            log_refusal(&request.response_nonce, &error.message);
        }
        for name in request.resource_names_unsubscribe {
            self.secrets.remove(&name);
        }
        for name in request.resource_names_subscribe {
            // What it still has of an earlier stream is told again only if it is another by now.
            let has = match request.initial_resource_versions.get(&name) {
                // None of ours is as long, and whatever it is, it is kept.
                Some(version) if version.len() <= secrets::VERSION_LETTERS => {
                    Has::Version(version.clone())
                }
                Some(_) | None => Has::Asked,
            };
            self.secrets.insert(name, has);
        }
        check_names(self.secrets.keys())
    }

    fn news(&mut self, view: &View) -> Option<DeltaDiscoveryResponse> {
        let (mut resources, mut removed) = (Vec::new(), Vec::new());
        for (name, has) in &mut self.secrets {
            let now = secrets::find(view, name);
            match (&now, &*has) {
                (None, Has::Nothing) => {}
                (Some(secret), Has::Version(version)) if secret.version == *version => {}
                (Some(secret), _) => {
                    resources.push(Resource {
                        version: secret.version.clone(),
                        resource: Some(secret.to_any()),
                        name: name.clone(),
                    });
                    *has = Has::Version(secret.version.clone());
                }
                // Before the first certificate there is none, and will be: what Envoy waits for, or still has of an earlier
                // stream, is not taken from it.
                (None, Has::Asked | Has::Version(_)) if view.svids.is_empty() => {}
                (None, _) => {
                    removed.push(name.clone());
                    *has = Has::Nothing;
                }
            }
        }
        if resources.is_empty() && removed.is_empty() {
            return None;
        }
        self.nonce += 1;
        Some(DeltaDiscoveryResponse {
            system_version_info: String::new(),
            resources,
            type_url: SECRET.to_owned(),
            nonce: self.nonce.to_string(),
            removed_resources: removed,
        })
    }
}
