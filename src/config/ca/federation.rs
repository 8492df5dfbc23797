//! `federation:`, the trust domains whose bundles the CA fetches and passes on.

use super::attest::read_server;
use crate::config::path;
use ca::attest::fetch::HttpsUrl;
use ca::federation::{EndpointOptions, MAX_DOMAINS, Options, Profile};
use identity::{SpiffeId, TrustDomain};
use policy::yaml::{self, Map, Node, Problems};
use std::collections::HashSet;

pub(super) fn read(node: &Node, problems: &Problems) -> Option<Vec<Options>> {
    let domains = yaml::list(read_domain)(node, problems)?;
    if domains.len() > MAX_DOMAINS {
        problems.push(node.problem(format!(
            "expected at most {MAX_DOMAINS} trust domains, found {}",
            domains.len()
        )));
        return None;
    }
    let mut seen = HashSet::new();
    for Options { trust_domain, .. } in &domains {
        if !seen.insert(trust_domain) {
            problems.push(node.problem(format!(
                "expected each trust domain once, found {trust_domain} twice"
            )));
            return None;
        }
    }
    Some(domains)
}

/// `bundleEndpoint:`, where others who go by host names find our bundle.
pub(super) fn read_endpoint(node: &Node, problems: &Problems) -> Option<EndpointOptions> {
    let address = yaml::parsed("an address such as 0.0.0.0:443");
    yaml::map(node, problems, |map| {
        let listen = map.required("listen", address);
        let certificate_file = map.required("certificateFile", path);
        let key_file = map.required("keyFile", path);
        Some(EndpointOptions {
            listen: listen?,
            certificate_file: certificate_file?,
            key_file: key_file?,
        })
    })
}

fn read_domain(node: &Node, problems: &Problems) -> Option<Options> {
    yaml::map(node, problems, |map| {
        let trust_domain: Option<TrustDomain> = map.required(
            "trustDomain",
            yaml::parsed("a trust domain such as partner.example"),
        );
        let is_spiffe = map.node_of("spiffeId").is_some();
        let profile = match is_spiffe {
            true => read_spiffe(map),
            false => read_server(map).map(Profile::Web),
        };
        let (trust_domain, profile) = (trust_domain?, profile?);
        if let Profile::Spiffe { id, .. } = &profile
            && !id.is_member_of(&trust_domain)
        {
            map.problems().push(map.node().problem(format!(
                "expected spiffeId to be of {trust_domain}, found {id}"
            )));
            return None;
        }
        Some(Options {
            trust_domain,
            profile,
        })
    })
}

/// `url`, `spiffeId` and `bundleFile`.
fn read_spiffe(map: &mut Map<'_>) -> Option<Profile> {
    let url = map.required(
        "url",
        yaml::parsed::<HttpsUrl>("a URL such as https://ca.partner.example:8443/bundle"),
    );
    let id = map.required(
        "spiffeId",
        yaml::parsed::<SpiffeId>("a SPIFFE ID such as spiffe://partner.example/tipstaff/ca"),
    );
    let bundle_file = map.required("bundleFile", path);
    Some(Profile::Spiffe {
        url: url?,
        id: id?,
        bundle_file: bundle_file?,
    })
}
