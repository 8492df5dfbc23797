//! Projected service-account tokens: a pod of a cluster proves its namespace and service account.
//!
//! Checked offline against the cluster's published keys: issuer, audience, times, and that the token is bound to a pod.
//! That alone cannot know that the pod has been deleted: its token is good until it expires. With a
//! [`TokenReview`](review) the cluster is asked as well, which refuses it.

pub mod review;

use super::jwt::Token;
use super::keyring::{Issuer, IssuerOptions, KeySourceError};
use super::selector::Kind;
use super::{AttestError, Evidence, Renewals, Selector};
use identity::{SpiffeId, TrustDomain};
use review::{ReviewOptions, Reviewer};
use serde_json::{Map, Value};
use std::time::SystemTime;

/// One cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What the cluster is called in entries and records.
    pub name: String,
    pub token: IssuerOptions,
    pub identities: Identities,
    pub renewals: Renewals,
    /// Asks the cluster, too, whether a token is still good.
    pub review: Option<ReviewOptions>,
}

/// What a service account is called in the trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identities {
    /// `/ns/<namespace>/sa/<service account>`. For one cluster of a CA at most: another has the same names.
    ServiceAccount,
    /// What entries say, and nothing else.
    Entries,
}

/// A cluster whose tokens are believed.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) name: String,
    pub(super) renewals: Renewals,
    issuer: Issuer,
    identities: Identities,
    reviewer: Option<Reviewer>,
}

impl Cluster {
    pub(super) async fn open(options: Options) -> Result<Self, KeySourceError> {
        Ok(Self {
            name: options.name,
            issuer: Issuer::open(options.token).await?,
            identities: options.identities,
            renewals: options.renewals,
            reviewer: options.review.map(Reviewer::new),
        })
    }

    pub(super) fn has_made(&self, token: &Token<'_>) -> bool {
        self.issuer.has_made(token)
    }

    /// What the pod that holds `token` is. `text` is the token itself.
    pub(super) async fn attest(
        &self,
        token: &Token<'_>,
        text: &str,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Evidence, AttestError> {
        let claims = self.issuer.verify(token, now).await?;
        let bound = Bound::read(claims).ok_or(AttestError::NotBound)?;
        if let Some(reviewer) = &self.reviewer {
            reviewer.ask(text, self.issuer.audience(), &bound).await?;
        }
        let Bound {
            namespace,
            service_account,
            pod_name,
            pod_uid,
            ..
        } = bound;
        let path = format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}");
        let natural_id = match self.identities {
            Identities::ServiceAccount => {
                Some(SpiffeId::parse(&path).map_err(|_| AttestError::NotBound)?)
            }
            Identities::Entries => None,
        };
        Ok(Evidence {
            attestor: format!("kubernetes/{}", self.name),
            subject: format!(
                "namespace {namespace}, service account {service_account}, pod {pod_name} {pod_uid}"
            ),
            holder: Some(format!("pod {pod_uid}")),
            selectors: [
                Selector::new(Kind::KubernetesCluster, &*self.name),
                Selector::new(Kind::KubernetesNamespace, namespace),
                Selector::new(Kind::KubernetesServiceAccount, service_account),
            ]
            .into_iter()
            .flatten()
            .collect(),
            natural_id,
            // The kubelet replaces the token for as long as the pod lives, and it is the pod that is vouched for.
            ends: None,
            renewals: self.renewals,
        })
    }
}

/// What a token says of its pod, all of it well formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound<'c> {
    namespace: &'c str,
    service_account: &'c str,
    service_account_uid: &'c str,
    pod_name: &'c str,
    pod_uid: &'c str,
}

impl<'c> Bound<'c> {
    /// `None` unless the claim `kubernetes.io` names a service account and a pod, and `sub` the same service account.
    /// Tokens that are bound to nothing, or to a Secret or a Node alone, can be anywhere.
    fn read(claims: &'c Map<String, Value>) -> Option<Self> {
        let kubernetes = claims.get("kubernetes.io")?;
        let object = |name: &str| {
            let object = kubernetes.get(name)?;
            let name = object.get("name")?.as_str().filter(|name| is_name(name))?;
            let uid = object.get("uid")?.as_str().filter(|uid| is_uid(uid))?;
            Some((name, uid))
        };
        let namespace = kubernetes.get("namespace")?.as_str();
        let namespace = namespace.filter(|namespace| is_label(namespace))?;
        let (service_account, service_account_uid) = object("serviceaccount")?;
        let (pod_name, pod_uid) = object("pod")?;
        let subject = format!("system:serviceaccount:{namespace}:{service_account}");
        (claims.get("sub")?.as_str()? == subject).then_some(Self {
            namespace,
            service_account,
            service_account_uid,
            pod_name,
            pod_uid,
        })
    }

    fn username(&self) -> String {
        format!(
            "system:serviceaccount:{}:{}",
            self.namespace, self.service_account
        )
    }
}

/// Whether `text` is an RFC 1123 label, as the names of namespaces are, and of clusters here.
pub fn is_label(text: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && edge(text.bytes().next())
        && edge(text.bytes().last())
}

/// An RFC 1123 subdomain: labels with dots between, as service accounts and pods are.
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// A UUID in practice; whatever else it is has to be safe to print.
fn is_uid(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Value {
        serde_json::json!({
            "sub": "system:serviceaccount:shop:cart.v2",
            "kubernetes.io": {
                "namespace": "shop",
                "serviceaccount": {"name": "cart.v2", "uid": "5b4e"},
                "pod": {"name": "cart-0", "uid": "81c7"},
            },
        })
    }

    fn read(claims: &Value) -> bool {
        Bound::read(claims.as_object().unwrap()).is_some()
    }

    #[test]
    fn a_token_says_who_and_in_which_pod_or_it_says_nothing() {
        assert!(read(&claims()));
        for pointer in [
            "/sub",
            "/kubernetes.io",
            "/kubernetes.io/namespace",
            "/kubernetes.io/serviceaccount",
            "/kubernetes.io/serviceaccount/name",
            "/kubernetes.io/serviceaccount/uid",
            "/kubernetes.io/pod",
            "/kubernetes.io/pod/name",
            "/kubernetes.io/pod/uid",
        ] {
            for wrong in [
                Value::Null,
                "".into(),
                "../x".into(),
                "Shop".into(),
                "a/b".into(),
                "a:b".into(),
            ] {
                let mut claims = claims();
                *claims.pointer_mut(pointer).unwrap() = wrong.clone();
                // A UID may have capitals.
                let may = pointer.ends_with("uid") && wrong == "Shop";
                assert_eq!(read(&claims), may, "{pointer} {wrong}");
            }
        }
    }

    #[test]
    fn the_subject_is_the_service_account_of_the_claim() {
        let mut claims = claims();
        claims["sub"] = "system:serviceaccount:shop:orders".into();
        assert!(!read(&claims));
    }
}
