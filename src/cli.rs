//! The command line (see `tipstaff --help`); no behaviour here.

pub(crate) mod agent;
pub(crate) mod ca;

use clap::{Args, Parser, Subcommand, ValueEnum};
use identity::SpiffeId;
use proxy::config::Cidr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

#[derive(Debug, Parser)]
#[command(
    name = "tipstaff",
    version,
    about = "mTLS sidecar with an embedded CA, a method-and-path policy and rate limits",
    after_help = "Start here:\n  tipstaff demo                 see the whole thing on loopback\n  tipstaff proxy --config FILE  run a sidecar\n  tipstaff ca init --help       make a CA",
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the main job on loopback: a CA, two services, two sidecars; then stay up to be tried by hand.
    Demo(DemoArgs),
    /// Run the certificate authority, or look after it.
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Run a sidecar.
    #[command(after_help = "Example:\n  tipstaff proxy --config deploy/sidecar.yaml")]
    Proxy(ProxyArgs),
    /// Give the processes of this node identities to speak TLS with themselves (SPIFFE Workload API, Envoy SDS).
    #[command(after_help = "Example:\n  tipstaff agent --config deploy/agent.yaml")]
    Agent(agent::AgentArgs),
    /// Check, explain and test policy documents.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Load a configuration, say what it means, and exit without running.
    ///
    /// Of what it names, a sidecar's policy and files of endpoints are read, and a CA's files of entries. Keys, tokens, bundles
    /// and passphrases are not opened: who runs this need not be able to.
    #[command(
        after_help = "Examples:\n  tipstaff check --config deploy/sidecar.yaml\n  tipstaff check --config deploy/agent.yaml --output json"
    )]
    Check(CheckArgs),
    /// Send a workload's connections through its sidecar, without any setting of its own (nftables).
    #[command(subcommand)]
    Redirect(RedirectCommand),
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Run every step, then exit: 0 only if each step did what it says.
    #[arg(long)]
    pub(crate) check: bool,
    /// How long the rotation under load lasts.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub(crate) load_for: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// The sidecar's configuration (YAML).
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Take the place of the sidecar that runs with this configuration (it answers at admin.socket): serve on its listening
    /// sockets, and let it drain once this one serves.
    #[arg(long)]
    pub(crate) upgrade: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The configuration (YAML) of a sidecar, an agent or a CA: its keys say which.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RedirectCommand {
    /// Print the rules that `install` would load, and change nothing.
    #[command(after_help = "Example:\n  tipstaff redirect print --proxy-uid 15001")]
    Print(RedirectArgs),
    /// Load the rules, in place of those of an earlier install. Needs nft and CAP_NET_ADMIN.
    #[command(
        after_help = "Example:\n  tipstaff redirect install --proxy-uid 15001 --exclude-inbound-ports 22"
    )]
    Install(RedirectArgs),
    /// Remove the rules, if there are any. Needs nft and CAP_NET_ADMIN.
    Remove,
}

#[derive(Debug, Args)]
pub(crate) struct RedirectArgs {
    /// The user that the sidecar runs as, and nothing else: its own connections are left alone.
    #[arg(long, value_name = "UID")]
    pub(crate) proxy_uid: u32,
    /// The port of the sidecar's inbound listener.
    #[arg(long, value_name = "PORT", default_value = "15006")]
    pub(crate) inbound_port: NonZeroU16,
    /// The port of the sidecar's outbound listener.
    #[arg(long, value_name = "PORT", default_value = "15001")]
    pub(crate) outbound_port: NonZeroU16,
    /// Take over only these of the workload's ports; all, unless given.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    pub(crate) inbound_ports: Vec<NonZeroU16>,
    /// Ports that callers go on reaching without the sidecar.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    pub(crate) exclude_inbound_ports: Vec<NonZeroU16>,
    /// Destinations that the workload goes on reaching without the sidecar.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    pub(crate) exclude_cidrs: Vec<Cidr>,
    /// What becomes of the workload's UDP, which no sidecar carries. DNS passes either way.
    #[arg(long, value_enum, default_value = "refuse")]
    pub(crate) udp: Udp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Udp {
    Refuse,
    Pass,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// For people, or for programs.
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Report every problem of the documents in a directory, and what looks like a mistake.
    Check(PolicyDirArgs),
    /// Say how one request is decided, by which rule, and how near it came.
    #[command(
        after_help = "Example:\n  tipstaff policy explain --policy policy/ --from spiffe://demo.test/ns/shop/sa/frontend --to spiffe://demo.test/ns/shop/sa/orders --method GET --path /api/v1/orders/42"
    )]
    Explain(PolicyExplainArgs),
    /// Run the documents' tests and those in *.test.yaml.
    Test(PolicyDirArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PolicyDirArgs {
    /// The directory with the policy documents (*.yaml, *.yml).
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) namespace: RootNamespaceArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RootNamespaceArgs {
    /// The namespace whose documents may speak for every other.
    #[arg(long, default_value = policy::ROOT_NAMESPACE)]
    pub(crate) root_namespace: String,
}

impl RootNamespaceArgs {
    pub(crate) fn options(&self) -> policy::Options {
        policy::Options {
            root_namespace: self.root_namespace.clone(),
            ..policy::Options::default()
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PolicyExplainArgs {
    /// The directory with the policy documents.
    #[arg(long, value_name = "DIR")]
    pub(crate) policy: PathBuf,
    /// The caller: a SPIFFE ID, or `unauthenticated`.
    #[arg(long)]
    pub(crate) from: String,
    /// The workload that is called.
    #[arg(long)]
    pub(crate) to: SpiffeId,
    #[arg(long, required_unless_present = "tcp")]
    pub(crate) method: Option<String>,
    /// The request target as sent, query included.
    #[arg(long, required_unless_present = "tcp")]
    pub(crate) path: Option<String>,
    /// The Host the caller names.
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// A request header, `name: value`; may be repeated.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub(crate) headers: Vec<String>,
    /// Ask about an opaque TCP connection instead of a request.
    #[arg(long, conflicts_with_all = ["method", "path", "host", "headers"])]
    pub(crate) tcp: bool,
    /// The app's port.
    #[arg(long, default_value_t = 80)]
    pub(crate) port: u16,
    /// The instant to decide at (RFC 3339); now, unless given.
    #[arg(long, value_parser = instant)]
    pub(crate) at: Option<SystemTime>,
    #[command(flatten)]
    pub(crate) namespace: RootNamespaceArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

fn duration(text: &str) -> Result<Duration, String> {
    policy::yaml::parse_duration(text)
}

fn instant(text: &str) -> Result<SystemTime, String> {
    policy::yaml::parse_timestamp(text)
}
