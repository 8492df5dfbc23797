//! Tokens of an OpenID Connect provider, such as of a build system for its jobs. What they are worth is said by entries.

use super::jwt::Token;
use super::keyring::{Issuer, IssuerOptions, KeySourceError};
use super::selector::Kind;
use super::{AttestError, Evidence, Renewals, Selector};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::time::SystemTime;

/// Claims beyond this number give no selectors: no provider we know has half of it.
const MAX_SELECTORS: usize = 128;

/// One provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What the provider is called in entries and records.
    pub name: String,
    pub token: IssuerOptions,
    pub renewals: Renewals,
}

/// A provider whose tokens are believed.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) name: String,
    pub(super) renewals: Renewals,
    issuer: Issuer,
}

impl Provider {
    pub(super) async fn open(options: Options) -> Result<Self, KeySourceError> {
        Ok(Self {
            name: options.name,
            renewals: options.renewals,
            issuer: Issuer::open(options.token).await?,
        })
    }

    pub(super) fn has_made(&self, token: &Token<'_>) -> bool {
        self.issuer.has_made(token)
    }

    pub(super) async fn attest(
        &self,
        token: &Token<'_>,
        now: SystemTime,
    ) -> Result<Evidence, AttestError> {
        let claims = self.issuer.verify(token, now).await?;
        let subject = claims.get("sub").and_then(Value::as_str);
        let subject = subject.filter(|subject| {
            (1..=256).contains(&subject.len()) && !subject.chars().any(char::is_control)
        });
        let subject = subject.ok_or(AttestError::NoSubject)?;
        let issuer = Selector::new(Kind::OidcIssuer, &*self.name);
        Ok(Evidence {
            attestor: format!("oidc/{}", self.name),
            subject: format!("subject {subject}"),
            // The jobs of one repository may share a subject: each has a lineage of its own.
            holder: None,
            selectors: issuer.into_iter().chain(facts(claims)).collect(),
            natural_id: None,
            ends: Some(token.expires()?),
            renewals: self.renewals,
        })
    }
}

/// `name=value` of each claim that is a text, a truth value or a whole number; of a list of texts, such as groups, each.
fn facts(claims: &Map<String, Value>) -> BTreeSet<Selector> {
    let fact = |name: &str, value: &Value| {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Bool(_) => value.to_string(),
            Value::Number(number) if !number.is_f64() => number.to_string(),
            _ => return None,
        };
        // The first `=` ends the name.
        (!name.contains('='))
            .then(|| Selector::new(Kind::OidcClaim, format!("{name}={value}")))
            .flatten()
    };
    let each = claims.iter().flat_map(|(name, value)| match value {
        Value::Array(list) => list.iter().filter_map(|value| fact(name, value)).collect(),
        value => Vec::from_iter(fact(name, value)),
    });
    each.take(MAX_SELECTORS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims_become_facts_and_none_can_pass_for_another() {
        let claims = json!({
            "sub": "repo:acme/shop",
            "protected": true,
            "attempt": 2,
            "groups": ["ops", "dev", 7, null],
            "nested": {"sub": "other"},
            "ratio": 0.5,
            "sub=x": "y",
            "evil": "a\u{0}b",
            "empty": "",
        });
        let found: Vec<String> = facts(claims.as_object().unwrap())
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "oidc:claim:attempt=2",
                "oidc:claim:groups=7",
                "oidc:claim:groups=dev",
                "oidc:claim:groups=ops",
                "oidc:claim:protected=true",
                "oidc:claim:sub=repo:acme/shop",
            ]
        );
    }
}
