//! What a workload shows to the CA of who it is, made anew for each call.

use super::enrolment_key::EnrolmentKey;
use super::{Proof, StartError};
use crate::attest::fetch::{self, FetchError};
use crate::attest::jwt::MAX_BYTES;
use crate::proto::attestation::Evidence;
use crate::proto::{Attestation, IssueRequest};
use crate::token::JoinToken;
use identity::SpiffeId;
use std::path::{Path, PathBuf};

/// What [`Proof`] names, read.
#[derive(Debug)]
pub(super) enum Prover {
    Enrolment {
        key: EnrolmentKey,
        token: Option<JoinToken>,
    },
    ServiceAccountToken(PathBuf),
}

impl Prover {
    pub(super) fn open(proof: Proof) -> Result<Self, StartError> {
        Ok(match proof {
            Proof::Enrolment {
                key_path,
                join_token,
            } => Self::Enrolment {
                token: join_token.map(|text| JoinToken::parse(&text)).transpose()?,
                key: EnrolmentKey::load_or_create(&key_path)?,
            },
            Proof::ServiceAccountToken(path) => Self::ServiceAccountToken(path),
        })
    }

    /// A request for `id` that lacks nothing but the life to ask for.
    pub(super) async fn request(
        &self,
        id: &SpiffeId,
        csr: Vec<u8>,
    ) -> Result<IssueRequest, ProveError> {
        let request = IssueRequest {
            spiffe_id: id.to_string(),
            attestation: self.attestation().await?,
            ..IssueRequest::default()
        };
        Ok(match self {
            Self::Enrolment { key, token } => IssueRequest {
                enrolment_key: key.public_key().to_vec(),
                enrolment_proof: key.prove(id, &csr),
                join_token: token
                    .as_ref()
                    .map(|token| token.reveal().to_string())
                    .unwrap_or_default(),
                csr,
                ..request
            },
            Self::ServiceAccountToken(_) => IssueRequest { csr, ..request },
        })
    }

    /// What a renewal brings besides the present certificate.
    pub(super) async fn attestation(&self) -> Result<Option<Attestation>, ProveError> {
        let Self::ServiceAccountToken(path) = self else {
            return Ok(None);
        };
        let token = read_token(path).await?;
        Ok(Some(Attestation {
            evidence: Some(Evidence::KubernetesToken(token)),
        }))
    }

    /// A certificate has come: the enrolment key is registered, and a secret that has done its work is dropped.
    pub(super) fn succeeded(&mut self) {
        if let Self::Enrolment { token, .. } = self {
            *token = None;
        }
    }
}

/// The kubelet replaces the file well before its token expires.
async fn read_token(path: &Path) -> Result<String, ProveError> {
    let bytes = fetch::read(path, MAX_BYTES)
        .await
        .map_err(ProveError::Read)?;
    let text = String::from_utf8(bytes).map_err(|_| ProveError::NoText(path.to_owned()))?;
    Ok(text.trim_ascii().to_owned())
}

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProveError {
    #[error("the service-account token cannot be read")]
    Read(#[source] FetchError),
    #[error("expected a token in {path}, found something else than text", path = .0.display())]
    NoText(PathBuf),
}
