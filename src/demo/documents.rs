//! The configurations and policies that the demo writes; what a person would write by hand.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// Life of the certificates: long enough for two cores under load, short enough that expiry can be watched.
pub(super) const TTL: Duration = Duration::from_secs(8);

pub(super) const TRUST_DOMAIN: &str = "demo.test";
pub(super) const STOREFRONT: &str = "spiffe://demo.test/ns/shop/sa/storefront";
pub(super) const ORDERS: &str = "spiffe://demo.test/ns/shop/sa/orders";
pub(super) const NEWSLETTER: &str = "spiffe://demo.test/ns/marketing/sa/newsletter";

/// What the storefront may do, and how often it may write.
pub(super) const POLICY: &str = r#"apiVersion: tipstaff.dev/v1alpha1
kind: Grant
metadata: {name: storefront-uses-orders, namespace: shop}
spec:
  from: ["spiffe://demo.test/ns/shop/sa/storefront"]
  to: ["spiffe://demo.test/ns/shop/sa/orders"]
  allow:
    - {methods: [GET, HEAD], path: "/api/v1/orders/{id}"}
    - {methods: [GET], path: "/api/v1/orders"}
  purpose: {id: order-history-page, owner: team-shop}
  validity: {notAfter: never, because: "demonstration"}
---
apiVersion: tipstaff.dev/v1alpha1
kind: Grant
metadata: {name: storefront-places-orders, namespace: shop}
spec:
  from: ["spiffe://demo.test/ns/shop/sa/storefront"]
  to: ["spiffe://demo.test/ns/shop/sa/orders"]
  allow: [{methods: [POST], path: "/api/v1/orders"}]
  limits: [{name: writes, key: [identity], rate: 1/s, burst: 3}]
  purpose: {id: checkout, owner: team-shop}
  validity: {notAfter: never, because: "demonstration"}
"#;

/// Added by the live policy change.
pub(super) const CANCEL_GRANT: &str = r#"apiVersion: tipstaff.dev/v1alpha1
kind: Grant
metadata: {name: storefront-cancels-orders, namespace: shop}
spec:
  from: ["spiffe://demo.test/ns/shop/sa/storefront"]
  to: ["spiffe://demo.test/ns/shop/sa/orders"]
  allow: [{methods: [DELETE], path: "/api/v1/orders/{id}"}]
  purpose: {id: cancellation, owner: team-shop, ticket: SHOP-7}
  validity: {notAfter: never, because: "demonstration"}
"#;

/// Where one sidecar listens and what it stands beside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sidecar<'a> {
    pub(super) name: &'a str,
    pub(super) id: &'a str,
    /// Inbound listener, and the app behind it.
    pub(super) inbound: Option<(SocketAddr, SocketAddr)>,
    pub(super) outbound: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) ca: SocketAddr,
    /// The orders service's inbound listener.
    pub(super) orders: SocketAddr,
}

impl Sidecar<'_> {
    /// The sidecar's configuration file; paths are relative to the folder it is written to.
    pub(super) fn config(&self, folder: &Path) -> String {
        let Self {
            name,
            id,
            outbound,
            admin,
            ca,
            orders,
            ..
        } = self;
        let (folder, ttl) = (folder.display(), TTL.as_secs());
        let inbound = self.inbound.map_or_else(String::new, |(listen, app)| {
            format!("inbound:\n  - {{listen: \"{listen}\", app: \"{app}\"}}\n")
        });
        format!(
            r#"identity:
  ca: {{endpoint: "https://{ca}", bundle: "{folder}/ca/ca-bundle.pem"}}
  attest: {{joinTokenFile: "{folder}/{name}.token"}}
  enrolmentKey: "{folder}/{name}.enrolment.key"
  id: {id}
  ttl: {ttl}s
{inbound}outbound:
  listen: "{outbound}"
  services:
    - {{hosts: [orders], endpoints: ["{orders}"], identity: "{ORDERS}", timeout: 5s}}
policy: {{dir: "{folder}/policy"}}
admin: {{listen: "{admin}", socket: "{folder}/{name}.sock"}}
"#
        )
    }
}
