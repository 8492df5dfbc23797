//! From an identity in a configuration to what the CA client needs for it.

use crate::config::{Identity, Proof};
use anyhow::Context;
use ca::client::{self, ClientConfig, Keys};
use identity::TrustBundle;
use std::io::ErrorKind;
use zeroize::Zeroizing;

/// Reads the files that the configuration names.
pub(crate) fn of(identity: &Identity, keys: Keys) -> anyhow::Result<ClientConfig> {
    let file = &identity.ca.bundle;
    let reading = || format!("reading ca.bundle {}", file.display());
    let bundle = std::fs::read(file).with_context(reading)?;
    let bundle =
        TrustBundle::from_pem(identity.id.trust_domain(), &bundle, 0).with_context(reading)?;
    Ok(ClientConfig {
        endpoint: identity.ca.endpoint.clone(),
        bundle,
        spiffe_id: identity.id.clone(),
        proof: proof(&identity.proof)?,
        ttl: identity.ttl,
        keys,
    })
}

fn proof(proof: &Proof) -> anyhow::Result<client::Proof> {
    let (key, join_token_file) = match proof {
        Proof::Enrolment {
            key,
            join_token_file,
        } => (key, join_token_file),
        Proof::ServiceAccountToken(file) => {
            return Ok(client::Proof::ServiceAccountToken(file.clone()));
        }
    };
    let join_token = match join_token_file {
        // A used token is removed by careful operators; the enrolment key then speaks for the workload.
        Some(file) => match std::fs::read_to_string(file).map(Zeroizing::new) {
            Ok(text) => Some(Zeroizing::new(text.trim().to_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("reading attest.joinTokenFile {}", file.display()));
            }
        },
        None => None,
    };
    Ok(client::Proof::Enrolment {
        key_path: key.clone(),
        join_token,
    })
}
