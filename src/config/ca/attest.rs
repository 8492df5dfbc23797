//! `attest:`, who is believed about who a caller is.

use crate::config::path;
use ca::attest::fetch::{HttpsUrl, Server};
use ca::attest::keyring::{IssuerOptions, KeySource};
use ca::attest::kubernetes::review::ReviewOptions;
use ca::attest::kubernetes::{self, Identities, is_label};
use ca::attest::{MAX_ATTESTORS, Options, Renewals, oidc, x509pop};
use policy::yaml::{self, Map, Node, Problems};
use std::collections::HashSet;

pub(super) fn read(node: &Node, problems: &Problems) -> Option<Options> {
    yaml::map(node, problems, |map| {
        let kubernetes = map.optional("kubernetes", read_clusters);
        let oidc = map.optional("oidc", |node, problems| {
            let providers = yaml::list(read_provider)(node, problems)?;
            check_names(node, problems, providers.iter().map(|one| &*one.name))?;
            Some(providers)
        });
        let x509pop = map.optional("x509pop", |node, problems| {
            let outside = yaml::list(read_outside)(node, problems)?;
            check_names(node, problems, outside.iter().map(|one| &*one.name))?;
            Some(outside)
        });
        Some(Options {
            kubernetes: kubernetes.unwrap_or_default(),
            oidc: oidc.unwrap_or_default(),
            x509pop: x509pop.unwrap_or_default(),
        })
    })
}

fn read_provider(node: &Node, problems: &Problems) -> Option<oidc::Options> {
    yaml::map(node, problems, |map| {
        let name = map.required("name", read_name);
        let token = read_issuer(map);
        let renewals = map.optional("renewals", read_renewals);
        Some(oidc::Options {
            name: name?,
            token: token?,
            renewals: renewals.unwrap_or(Renewals::Attest),
        })
    })
}

fn read_outside(node: &Node, problems: &Problems) -> Option<x509pop::Options> {
    yaml::map(node, problems, |map| {
        let name = map.required("name", read_name);
        let ca_file = map.required("caFile", path);
        let renewals = map.optional("renewals", read_renewals);
        Some(x509pop::Options {
            name: name?,
            ca_file: ca_file?,
            renewals: renewals.unwrap_or(Renewals::Attest),
        })
    })
}

fn read_clusters(node: &Node, problems: &Problems) -> Option<Vec<kubernetes::Options>> {
    let clusters = yaml::list(read_cluster)(node, problems)?;
    check_names(
        node,
        problems,
        clusters.iter().map(|cluster| &*cluster.name),
    )?;
    let natural = clusters
        .iter()
        .filter(|cluster| cluster.identities == Identities::ServiceAccount);
    if natural.count() > 1 {
        problems.push(node.problem(
            "expected `identities: serviceAccount` for at most one cluster, as namespaces of the same name would have the same identities: give the others `identities: entries`",
        ));
        return None;
    }
    Some(clusters)
}

/// Attestors are known by their names.
fn check_names<'n>(
    node: &Node,
    problems: &Problems,
    names: impl ExactSizeIterator<Item = &'n str>,
) -> Option<()> {
    if names.len() > MAX_ATTESTORS {
        problems.push(node.problem(format!(
            "expected at most {MAX_ATTESTORS} attestors, found {}",
            names.len()
        )));
        return None;
    }
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            problems.push(node.problem(format!("expected each name once, found {name:?} twice")));
            return None;
        }
    }
    Some(())
}

fn read_cluster(node: &Node, problems: &Problems) -> Option<kubernetes::Options> {
    yaml::map(node, problems, |map| {
        let name = map.required("name", read_name);
        let token = read_issuer(map);
        let identities = map.optional(
            "identities",
            yaml::word(&[
                ("serviceAccount", Identities::ServiceAccount),
                ("entries", Identities::Entries),
            ]),
        );
        let renewals = map.optional("renewals", read_renewals);
        let review = map.optional("tokenReview", |node, problems| {
            yaml::map(node, problems, |map| {
                let server = read_server(map)?;
                if server.token_file.is_none() {
                    let problem = map.node().problem(
                        "expected the key `tokenFile`: nobody without a name may ask for reviews",
                    );
                    problems.push(problem);
                }
                Some(ReviewOptions { server })
            })
        });
        Some(kubernetes::Options {
            name: name?,
            token: token?,
            identities: identities.unwrap_or(Identities::ServiceAccount),
            renewals: renewals.unwrap_or(Renewals::Attest),
            review,
        })
    })
}

fn read_name(node: &Node, problems: &Problems) -> Option<String> {
    let name = yaml::text(node, problems)?;
    if is_label(&name) {
        return Some(name);
    }
    problems.push(node.problem(
        "expected a name of at most 63 lower-case letters, digits and hyphens, such as prod",
    ));
    None
}

/// `issuer`, `audience`, and `jwksFile` or `jwks`.
fn read_issuer(map: &mut Map<'_>) -> Option<IssuerOptions> {
    let issuer = map.required("issuer", filled);
    let audience = map.required("audience", filled);
    let file = map.optional("jwksFile", path).map(KeySource::File);
    let url = map.optional("jwks", |node, problems| {
        yaml::map(node, problems, |map| read_server(map).map(KeySource::Url))
    });
    let (file, url) = match (file, url) {
        (Some(_), Some(_)) => {
            let problem = map
                .node()
                .problem("expected one of jwksFile and jwks, found both");
            map.problems().push(problem);
            return None;
        }
        keys => keys,
    };
    let asked = ["jwksFile", "jwks"].map(|key| map.node_of(key).is_some());
    if asked == [false, false] {
        let problem = map
            .node()
            .problem("expected jwksFile or jwks: where the issuer's keys are");
        map.problems().push(problem);
    }
    Some(IssuerOptions {
        issuer: issuer?,
        audience: audience?,
        keys: file.or(url)?,
    })
}

/// `url` and `caFile`, and where a bearer token is.
pub(super) fn read_server(map: &mut Map<'_>) -> Option<Server> {
    let url = map.required(
        "url",
        yaml::parsed::<HttpsUrl>("a URL such as https://10.96.0.1:443"),
    );
    let ca_file = map.required("caFile", path);
    let token_file = map.optional("tokenFile", path);
    Some(Server {
        url: url?,
        ca_file: ca_file?,
        token_file,
    })
}

/// An empty audience would be everybody's.
fn filled(node: &Node, problems: &Problems) -> Option<String> {
    let text = yaml::text(node, problems)?;
    if text.is_empty() {
        problems.push(node.problem("expected text, found none"));
        return None;
    }
    Some(text)
}

fn read_renewals(node: &Node, problems: &Problems) -> Option<Renewals> {
    yaml::word(&[
        ("attest", Renewals::Attest),
        ("certificate", Renewals::Certificate),
    ])(node, problems)
}
