//! `tipstaff ca entry`.

use super::super::{OutputArgs, duration};
use super::CaDirArgs;
use ca::dns::DnsName;
use clap::{Args, Subcommand};
use identity::{SpiffeId, TrustDomain};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(crate) enum EntryCommand {
    /// Let whoever has proven all selectors have an identity.
    #[command(
        after_help = "Example:\n  tipstaff ca entry create --config ca.yaml --id spiffe://prod.example/web/front --selector k8s:cluster:prod --selector k8s:ns:shop"
    )]
    Create(EntryCreateArgs),
    /// List the entries of the store, in the order of their names.
    List(EntryListArgs),
    /// Forget an entry. What was issued by it stays valid until it ends.
    Delete(EntryDeleteArgs),
    /// Make every entry of a file (YAML, as `export` writes it). Those that are there stay.
    Import(EntryImportArgs),
    /// Print every entry as a file for `import`.
    Export(EntryExportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct EntryCreateArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    /// The identity.
    #[arg(long, value_name = "SPIFFE_ID")]
    pub(crate) id: SpiffeId,
    /// What has to be proven, such as k8s:ns:shop; may be repeated, and then all of it.
    #[arg(long = "selector", value_name = "SELECTOR", required = true)]
    pub(crate) selectors: Vec<String>,
    /// Longest life of the certificates, and theirs when the caller asks for none.
    #[arg(long, value_parser = duration)]
    pub(crate) ttl: Option<Duration>,
    /// Tells a workload with several identities which is for what.
    #[arg(long)]
    pub(crate) hint: Option<String>,
    /// A host name that its certificates have beside the identity; may be repeated.
    #[arg(long = "dns-name", value_name = "NAME")]
    pub(crate) dns_names: Vec<DnsName>,
    /// A trust domain whose bundle the workload has, of those that the CA federates with; may be repeated.
    #[arg(long = "federates-with", value_name = "NAME")]
    pub(crate) federates_with: Vec<TrustDomain>,
    /// How long after its end a certificate may still be renewed by whoever holds its key, and proves nothing else; at most 50m,
    /// and not for oidc: and x509pop: selectors.
    #[arg(long, value_parser = duration)]
    pub(crate) recovery_grace: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct EntryListArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EntryDeleteArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    /// As `list` names it.
    #[arg(long, value_name = "HEX")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct EntryImportArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    /// The file.
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct EntryExportArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
}
