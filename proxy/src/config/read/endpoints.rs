//! Where the sidecars of a service are found.

use super::{path, some};
use crate::config::{Dns, Endpoints, Source};
use policy::yaml::{self, Map, Node, Problems};
use std::net::SocketAddr;

/// What may be listed for one service. Each endpoint has connections and a task of its own in every worker.
const MAX_LISTED: usize = 1024;

/// `endpoints` or `endpointsFile`.
pub(super) fn endpoints(map: &mut Map<'_>) -> Option<Endpoints> {
    if map.node_of("endpointsFile").is_some() {
        map.refuse("endpoints", "expected one of endpoints and endpointsFile");
        return map.optional("endpointsFile", path).map(Endpoints::File);
    }
    map.required("endpoints", listed).map(Endpoints::Listed)
}

/// A list as it stands in the configuration, or in a file of its own.
pub(crate) fn listed(node: &Node, problems: &Problems) -> Option<Vec<Source>> {
    let sources = some("endpoint", source)(node, problems)?;
    if sources.len() > MAX_LISTED {
        let found = sources.len();
        problems.push(node.problem(format!(
            "expected at most {MAX_LISTED} endpoints, found {found}"
        )));
        return None;
    }
    Some(sources)
}

fn source(node: &Node, problems: &Problems) -> Option<Source> {
    yaml::parsed("host:port such as 10.0.0.7:15006")(node, problems)
}

pub(super) fn dns(node: &Node, problems: &Problems) -> Option<Dns> {
    yaml::map(node, problems, |map| {
        let servers = map.required("servers", some("server", server))?;
        Some(Dns { servers })
    })
}

fn server(node: &Node, problems: &Problems) -> Option<SocketAddr> {
    yaml::parsed("an address such as 10.96.0.10:53")(node, problems)
}
