//! `tipstaff ca revoke` and `reinstate`.

use super::CaDirArgs;
use clap::Args;
use identity::SpiffeId;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct CaRevokeArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    #[command(flatten)]
    pub(crate) what: Revoked,
    /// Why, in the words of RFC 5280.
    #[arg(long, default_value = "unspecified", value_parser = reason)]
    pub(crate) reason: ca::revoke::Reason,
}

/// One of them.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Revoked {
    /// One certificate. Its workload may get another with its enrolment key.
    #[arg(long, value_name = "HEX")]
    pub(crate) serial: Option<String>,
    /// All certificates of an identity, which gets no more.
    #[arg(long, value_name = "SPIFFE_ID")]
    pub(crate) id: Option<SpiffeId>,
    /// All certificates of a lineage, which gets no more.
    #[arg(long, value_name = "HEX")]
    pub(crate) lineage: Option<String>,
    /// A CA certificate (PEM): nothing that its key signed counts any more.
    #[arg(long, value_name = "FILE")]
    pub(crate) authority: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CaReinstateArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    #[command(flatten)]
    pub(crate) what: Barred,
    /// What has changed; goes into the audit record.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
}

/// One of them.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Barred {
    /// The identity that may have certificates again.
    #[arg(long, value_name = "SPIFFE_ID")]
    pub(crate) id: Option<SpiffeId>,
    /// The lineage that may.
    #[arg(long, value_name = "HEX")]
    pub(crate) lineage: Option<String>,
}

fn reason(word: &str) -> Result<ca::revoke::Reason, String> {
    ca::revoke::Reason::parse(word).ok_or_else(|| {
        let words = ca::revoke::Reason::ALL.map(ca::revoke::Reason::as_str);
        format!("expected one of {}", words.join(", "))
    })
}
