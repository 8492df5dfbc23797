//! The bundle as anyone may read it.

use super::replies::bundle_message;
use crate::federation;
use crate::rendered::Rendered;
use identity::{TrustBundle, pem};
use std::sync::Arc;
use tokio::sync::watch::Receiver;

/// The forms of the present bundle.
#[derive(Debug)]
pub(crate) struct Published {
    /// What the bundle endpoint gives.
    pub(crate) document: Rendered,
    /// The message that gRPC has, in JSON.
    pub(crate) json: Rendered,
    pub(crate) pem: Rendered,
}

impl Published {
    pub(super) fn new(bundle: &Receiver<Arc<TrustBundle>>) -> Arc<Self> {
        let rendered = |render| Rendered::new(bundle.clone(), render);
        Arc::new(Self {
            document: rendered(federation::document),
            json: rendered(|bundle| {
                let message = bundle_message(bundle);
                serde_json::to_string(&message).expect("a message is texts, numbers and lists")
            }),
            pem: rendered(|bundle| pem::encode(bundle.authorities())),
        })
    }
}
