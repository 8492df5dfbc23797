//! `tipstaff ca rotate`.

use super::{CaDirArgs, CaKeyArgs, OutputArgs, duration};
use ca::rotation::Role;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(crate) enum RotateCommand {
    /// Make the next authority. A root is published beside the present one; nothing is signed with either yet.
    #[command(
        after_help = "Where the root's key is elsewhere this prints a request (PKCS#10) for the root to sign, with CA true and path length 0;\n--chain takes the answer.\n\nExamples:\n  tipstaff ca rotate prepare --dir ca --passphrase-file ca.pass --intermediate\n  tipstaff ca rotate prepare --config ca.yaml --root --chain chain.pem"
    )]
    Prepare(RotatePrepareArgs),
    /// Have what was prepared sign from now on: a root, once every live sidecar has the trust bundle with it.
    #[command(after_help = "Example:\n  tipstaff ca rotate activate --dir ca --root")]
    Activate(RotateActivateArgs),
    /// Forget what was replaced, once nothing depends on it. A root leaves the trust bundle.
    #[command(after_help = "Example:\n  tipstaff ca rotate retire --dir ca --root")]
    Retire(RotateRetireArgs),
    /// Give up what was prepared or requested. Its key is forgotten, and a root leaves the trust bundle.
    #[command(after_help = "Example:\n  tipstaff ca rotate abandon --dir ca --root")]
    Abandon(RotateAbandonArgs),
    /// Show where each authority stands, and which sidecars do not have the present trust bundle.
    #[command(after_help = "Example:\n  tipstaff ca rotate status --dir ca --output json")]
    Status(RotateStatusArgs),
}

/// One of them.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Rotated {
    /// The root, with an intermediate of its own.
    #[arg(long)]
    root: bool,
    /// The intermediate, under the present root.
    #[arg(long)]
    intermediate: bool,
}

impl Rotated {
    pub(crate) fn role(&self) -> Role {
        match self.root {
            true => Role::Root,
            false => Role::Intermediate,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RotatePrepareArgs {
    #[command(flatten)]
    pub(crate) keys: CaKeyArgs,
    #[command(flatten)]
    pub(crate) what: Rotated,
    /// The certificates that a root elsewhere answered with: the intermediate's, then the root's (PEM).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["root_life", "intermediate_life"])]
    pub(crate) chain: Option<PathBuf>,
    /// Life of a new root certificate [default: the configuration's, or 3650d].
    #[arg(long, value_parser = duration)]
    pub(crate) root_life: Option<Duration>,
    /// Life of the new intermediate [default: the configuration's, or 365d].
    #[arg(long, value_parser = duration)]
    pub(crate) intermediate_life: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct RotateActivateArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    #[command(flatten)]
    pub(crate) what: Rotated,
    /// How many of the live sidecars have to have the new root, of a hundred [default: the configuration's, or 100].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) acknowledged_percent: Option<u8>,
    /// How long a new root has been published before it signs: other trust domains say nothing, and ask every 5 minutes. 0s
    /// when no other trusts this one [default: 10m].
    #[arg(long, value_parser = duration)]
    pub(crate) published_for: Option<Duration>,
    /// Do it although somebody does not have the new root, and say what breaks.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RotateRetireArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    #[command(flatten)]
    pub(crate) what: Rotated,
    /// Do it although certificates or sidecars depend on it, and say what breaks.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RotateAbandonArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    #[command(flatten)]
    pub(crate) what: Rotated,
}

#[derive(Debug, Args)]
pub(crate) struct RotateStatusArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
