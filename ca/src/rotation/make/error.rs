//! Why there is no next authority.

use crate::authority::{FinishError, OpenError};
use crate::config::{MAX_CA_LIFE, MIN_CA_LIFE};
use crate::keys::KeyError;
use crate::rotation::Refused;
use crate::store::StoreError;
use identity::BundleError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why no authority is prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("cannot use the CA's database")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("cannot read the CA's certificates")]
    Open(#[from] OpenError),
    #[error("cannot read {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "expected CA certificates to live for {MIN_CA_LIFE:?} to {MAX_CA_LIFE:?}, found {found:?}"
    )]
    Life { found: Duration },
    #[error("cannot make or use a key of the CA")]
    Key(#[source] KeyError),
    #[error("cannot make the certificate")]
    Sign(#[source] rcgen::Error),
    #[error("expected the certificates of this CA, with their keys")]
    Certificate,
    #[error("the root makes no trust bundle")]
    Bundle(#[source] BundleError),
    #[error("the chain is not taken")]
    Chain(#[source] FinishError),
    #[error("no certificate is awaited from a root elsewhere")]
    NothingRequested,
    #[error("the chain ends in the root that is active: it is an intermediate that it prepares")]
    SameRoot,
    #[error("the chain ends in another root than the active one: it is a root that it prepares")]
    OtherRoot,
    #[error("this CA has no intermediate: its root signs, and can be rotated")]
    NoIntermediate,
    #[error(
        "the CA's keys are not encrypted, and its database is on another server: whoever reads that would be the CA"
    )]
    PlaintextElsewhere,
    #[error("the task that makes keys ended early")]
    Interrupted,
}
