//! `tipstaff ca ...`.

pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod entry;
pub(crate) mod lineage;
pub(crate) mod revoke;
pub(crate) mod rotate;

use super::{OutputArgs, duration};
use ca::dns::DnsName;
use clap::{Args, Subcommand};
use identity::{SpiffeId, TrustDomain};
use lineage::CaThawArgs;
use revoke::{CaReinstateArgs, CaRevokeArgs};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Make a root, an issuing intermediate and an empty store in a new directory.
    #[command(
        after_help = "Examples:\n  tipstaff ca init --dir ca --trust-domain prod.example --passphrase-file ca.pass\n  tipstaff ca init --config ca.yaml --trust-domain prod.example\n  tipstaff ca init --config ca.yaml --trust-domain prod.example --external-root > intermediate.csr\n  tipstaff ca init --config ca.yaml --finish chain.pem"
    )]
    Init(CaInitArgs),
    /// Serve the gRPC API to sidecars.
    #[command(
        after_help = "Examples:\n  tipstaff ca serve --config ca.yaml\n  tipstaff ca serve --dir ca --passphrase-file ca.pass --listen 0.0.0.0:8443"
    )]
    Serve(CaServeArgs),
    /// Load a CA's configuration, say what it means, and exit without running.
    #[command(after_help = "Example:\n  tipstaff ca check --config deploy/ca.yaml")]
    Check(CaCheckArgs),
    /// Join tokens: one-time secrets with which a workload enrols.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Registration entries: which identity is for whom, of those that others vouch for.
    #[command(subcommand)]
    Entry(entry::EntryCommand),
    /// Issue one certificate from a CSR, without a running server.
    #[command(
        after_help = "Example:\n  tipstaff ca issue --dir ca --passphrase-file ca.pass --id spiffe://prod.example/ns/ops/sa/bob --csr bob.csr > bob.pem"
    )]
    Issue(CaIssueArgs),
    /// List the certificates that have not expired, those that end last first.
    List(CaListArgs),
    /// Let a frozen lineage have certificates again, once it is known who holds its keys.
    #[command(
        after_help = "A lineage is frozen when one of its certificates is renewed with two keys: one of them is a thief's, or the\nworkload was cloned. Revoke what the wrong one got before.\n\nExample:\n  tipstaff ca thaw --dir ca --lineage 5f0c... --reason 'restored from a snapshot, the copy is gone'"
    )]
    Thaw(CaThawArgs),
    /// Write an encrypted backup, beside a running server.
    #[command(
        after_help = "A backup has one moment of the CA: its certificates, its keys as they rest, and its database. It is a tar archive in an\nage file: `age -d ca.age | tar x` unpacks it, too. Keep the passphrases of keys and backups apart.\n\nExample:\n  tipstaff ca backup --dir ca --to ca.age --backup-passphrase-file backup.pass"
    )]
    Backup(backup::CaBackupArgs),
    /// Make a CA's directory from a backup.
    #[command(
        after_help = "What was issued, enrolled, registered and audited after the backup is lost; what was revoked is kept by --revocations.\nJoin tokens that were not used by then are void.\n\nExamples:\n  tipstaff ca restore --dir ca --from ca.age --revocations ca.before --backup-passphrase-file backup.pass\n  curl -o last.crl http://ca.example:8444/crl && tipstaff ca restore --dir ca --from ca.age --revocations last.crl --accept-rollback"
    )]
    Restore(backup::CaRestoreArgs),
    /// Change nothing; say what ends when, who fails first if the CA stops, and what could not be used: exit 1 then.
    #[command(
        after_help = "Example:\n  tipstaff ca drill --config ca.yaml --backup ca.age --output json"
    )]
    Drill(backup::CaDrillArgs),
    /// Take back what was certified: sidecars hear of it within a second, close what is open to it and take nothing new.
    #[command(
        after_help = "Examples:\n  tipstaff ca revoke --dir ca --serial 4fa109... --reason key-compromise\n  tipstaff ca revoke --dir ca --id spiffe://prod.example/ns/shop/sa/orders\n  tipstaff ca revoke --dir ca --authority old-intermediate.pem --reason ca-compromise"
    )]
    Revoke(CaRevokeArgs),
    /// Let a revoked identity or lineage have certificates again. Those it had stay revoked.
    Reinstate(CaReinstateArgs),
    /// Replace the CA's intermediate or root, without an outage.
    #[command(subcommand)]
    Rotate(rotate::RotateCommand),
    /// Show a CA at a glance, or one of its certificates.
    #[command(after_help = "Example:\n  tipstaff ca inspect --dir ca --serial 4fa109...")]
    Inspect(CaInspectArgs),
    /// The hash-chained record of what was issued and refused.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
}

/// Which CA: one of the two is given.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct CaDirArgs {
    /// The CA's directory, when it needs no configuration file.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The CA's configuration (YAML), which names its directory and everything else.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CaKeyArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    /// A file that holds the passphrase of the CA's keys (a final newline is not part of it).
    /// Without it, TIPSTAFF_CA_PASSPHRASE is read, and then the systemd credential tipstaff-ca-passphrase.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CaInitArgs {
    #[command(flatten)]
    pub(crate) keys: CaKeyArgs,
    /// The trust domain whose identities this CA issues.
    #[arg(long, value_name = "NAME", required_unless_present = "finish")]
    pub(crate) trust_domain: Option<TrustDomain>,
    /// The root is somewhere else: make the issuing key only, and print the request for its certificate (PKCS#10).
    #[arg(long, conflicts_with_all = ["root_life", "intermediate_life"])]
    pub(crate) external_root: bool,
    /// Complete a CA made with --external-root: a PEM file with the certificate that was asked for, then the root's.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["trust_domain", "external_root", "root_life", "intermediate_life", "insecure_plaintext_keys", "existing_key"])]
    pub(crate) finish: Option<PathBuf>,
    /// The root signs certificates itself, for verifiers that take chains of one alone: its key is in use all the time.
    #[arg(long, conflicts_with_all = ["external_root", "finish", "intermediate_life"])]
    pub(crate) no_intermediate: bool,
    /// Life of the root certificate.
    #[arg(long, default_value = "3650d", value_parser = duration)]
    pub(crate) root_life: Duration,
    /// Life of the issuing intermediate.
    #[arg(long, default_value = "365d", value_parser = duration)]
    pub(crate) intermediate_life: Duration,
    /// Store the keys without encryption: whoever reads the directory is the CA.
    #[arg(long)]
    pub(crate) insecure_plaintext_keys: bool,
    /// The label of a key in the PKCS#11 token to use for the intermediate, where the configuration names a token.
    /// Without it, one is made there.
    #[arg(long, value_name = "LABEL", requires = "config")]
    pub(crate) existing_key: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CaServeArgs {
    #[command(flatten)]
    pub(crate) keys: CaKeyArgs,
    /// Where to serve gRPC and JSON over TLS [default: 127.0.0.1:8443].
    #[arg(long, value_name = "ADDR", conflicts_with = "config")]
    pub(crate) listen: Option<SocketAddr>,
    /// A host name of the CA, for clients that know it by that, such as curl; may be repeated.
    #[arg(long = "server-name", value_name = "NAME", conflicts_with = "config")]
    pub(crate) server_names: Vec<DnsName>,
    /// Where to serve /live, /ready and /metrics (loopback only; off unless given).
    #[arg(long, value_name = "ADDR", conflicts_with = "config")]
    pub(crate) admin_listen: Option<SocketAddr>,
    /// Where to serve what is revoked as a CRL, at /crl over plain HTTP (off unless given).
    #[arg(long, value_name = "ADDR", conflicts_with = "config")]
    pub(crate) crl_listen: Option<SocketAddr>,
    /// Let lives go down to 5 seconds (1 minute otherwise). For demonstrations and tests.
    #[arg(long, conflicts_with = "config")]
    pub(crate) allow_short_ttl_for_tests: bool,
    /// Go on from an older state that the CA's records were set back to, if sidecars have shown that they were: what was
    /// recorded since is given up, and join tokens that are not used are void. SEQ is the lost record that /ready and the log
    /// name; of any other nothing is accepted.
    #[arg(long, value_name = "SEQ")]
    pub(crate) accept_rollback: Option<i64>,
}

#[derive(Debug, Args)]
pub(crate) struct CaCheckArgs {
    /// The CA's configuration (YAML).
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Print a new join token for one SPIFFE ID. It is shown once and stored as a hash.
    #[command(
        after_help = "Example:\n  tipstaff ca token create --dir ca --id spiffe://prod.example/ns/shop/sa/orders > orders.token"
    )]
    Create(TokenCreateArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TokenCreateArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    /// The identity whose enrolment the token allows.
    #[arg(long, value_name = "SPIFFE_ID")]
    pub(crate) id: SpiffeId,
    /// How long the token can be used.
    #[arg(long, default_value = "1h", value_parser = duration)]
    pub(crate) expires_in: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct CaIssueArgs {
    #[command(flatten)]
    pub(crate) keys: CaKeyArgs,
    /// The identity to certify.
    #[arg(long, value_name = "SPIFFE_ID")]
    pub(crate) id: SpiffeId,
    /// The certificate signing request (PEM or DER). Only its public key is used.
    #[arg(long, value_name = "FILE")]
    pub(crate) csr: PathBuf,
    /// A host name to have beside the identity; may be repeated.
    #[arg(long = "dns-name", value_name = "NAME")]
    pub(crate) dns_names: Vec<DnsName>,
    /// Life of the certificate.
    #[arg(long, default_value = "1h", value_parser = duration)]
    pub(crate) ttl: Duration,
    /// Let the life go down to 5 seconds (1 minute otherwise). For demonstrations and tests.
    #[arg(long, conflicts_with = "config")]
    pub(crate) allow_short_ttl_for_tests: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CaListArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    /// The most certificates to list.
    #[arg(long, default_value_t = 1000)]
    pub(crate) limit: u32,
    /// List the frozen lineages instead: one of their certificates was renewed with two keys.
    #[arg(long, conflicts_with = "revoked")]
    pub(crate) frozen: bool,
    /// List what is revoked instead.
    #[arg(long)]
    pub(crate) revoked: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CaInspectArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    /// The certificate to show, with its PEM; expired ones too.
    #[arg(long, value_name = "HEX")]
    pub(crate) serial: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
