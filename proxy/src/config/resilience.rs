//! How the endpoints of a service are used: how long one is waited for.

use std::time::Duration;

use serde::{Serialize, Serializer};

/// What is asked of a service's endpoints. The defaults suit any service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resilience {
    /// How long one attempt may take, from the choice of an endpoint to the response head, where another may follow: of a
    /// request that may be repeated. None: as long as the request itself.
    #[serde(serialize_with = "or_off")]
    pub try_timeout: Option<Duration>,
}

fn or_off<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => super::as_duration(value, serializer),
        None => serializer.serialize_str("off"),
    }
}
