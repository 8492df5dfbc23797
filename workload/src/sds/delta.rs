//! Delta: each response holds what is new to the client, and what is gone.

use super::{SECRET, check_names, check_type, log_refusal, secrets};
use crate::call::Entitlement;
use crate::holdings::View;
use crate::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use futures_util::stream::{self, Stream};
use std::collections::BTreeMap;
use tonic::{Status, Streaming};

/// Answers the requests of one stream, and sends whatever changes.
pub(super) fn answers(
    entitlement: Entitlement,
    requests: Streaming<DeltaDiscoveryRequest>,
) -> impl Stream<Item = Result<DeltaDiscoveryResponse, Status>> {
    let start = Conversation {
        entitlement,
        requests,
        wants: Wants::default(),
    };
    stream::unfold(Some(start), |conversation| async {
        let mut conversation = conversation?;
        match conversation.next().await {
            Ok(None) => None,
            Ok(Some(response)) => Some((Ok(response), Some(conversation))),
            Err(status) => Some((Err(status), None)),
        }
    })
}

struct Conversation {
    entitlement: Entitlement,
    requests: Streaming<DeltaDiscoveryRequest>,
    wants: Wants,
}

impl Conversation {
    /// The next response; `None` when the stream ends.
    async fn next(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        loop {
            tokio::select! {
                request = self.requests.message() => match request? {
                    Some(request) => self.wants.take(request)?,
                    None => return Ok(None),
                },
                changed = self.entitlement.changed() => if !changed {
                    return Ok(None);
                },
            }
            let view = self.entitlement.view()?;
            if let Some(response) = self.wants.news(&view) {
                return Ok(Some(response));
            }
        }
    }
}

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

#[derive(Debug, Default)]
struct Wants {
    secrets: BTreeMap<String, Has>,
    nonce: u64,
}

impl Wants {
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
                Some(version) => Has::Version(version.clone()),
                None => Has::Asked,
            };
            self.secrets.insert(name, has);
        }
        check_names(self.secrets.len())
    }

    /// What the client has not been told, if there is something.
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
