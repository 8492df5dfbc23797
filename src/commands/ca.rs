//! `tipstaff ca ...`: arguments to calls of the ca crate, results to text or JSON.

mod admin;
mod audit;
mod backup;
mod check;
mod crl;
mod database;
mod drill;
mod entry;
mod init;
mod keys;
mod lineage;
mod revoke;
mod rotate;

use super::http::{Listener, local};
use super::print_fields;
use super::{answer, print, print_json};
use crate::cli::Output;
use crate::cli::ca::{
    CaCommand, CaDirArgs, CaInspectArgs, CaIssueArgs, CaKeyArgs, CaListArgs, CaServeArgs,
    TokenCommand, TokenCreateArgs,
};
use crate::config::ca::entries::load_dir;
use crate::config::ca::{CaConfig, SecretSource};
use crate::signal;
use anyhow::{Context, bail, ensure};
use ca::attest::Attestors;
use ca::config::TtlFloor;
use ca::csr::PublicKey;
use ca::federation::{Endpoint, Federation};
use ca::ledger::keep_archiving;
use ca::metrics::Metrics;
use ca::readiness::{Faults, Monitor};
use ca::store::{Store, TokenGrant};
use ca::token::JoinToken;
use ca::{Authority, Request, Requester};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) use check::explain;

pub(crate) fn run(command: &CaCommand) -> anyhow::Result<ExitCode> {
    match command {
        CaCommand::Init(arguments) => init::run(arguments),
        CaCommand::Serve(arguments) => block_on(serve(arguments)),
        CaCommand::Check(arguments) => check::run(arguments),
        CaCommand::Token(TokenCommand::Create(arguments)) => block_on(create_token(arguments)),
        CaCommand::Entry(command) => block_on(entry::run(command)),
        CaCommand::Issue(arguments) => block_on(issue(arguments)),
        CaCommand::List(arguments) if arguments.frozen => lineage::list_frozen(arguments),
        CaCommand::List(arguments) if arguments.revoked => revoke::list(arguments),
        CaCommand::List(arguments) => list(arguments),
        CaCommand::Revoke(arguments) => block_on(revoke::revoke(arguments)),
        CaCommand::Reinstate(arguments) => block_on(revoke::reinstate(arguments)),
        CaCommand::Rotate(command) => block_on(rotate::run(command)),
        CaCommand::Thaw(arguments) => block_on(lineage::thaw(arguments)),
        CaCommand::Backup(arguments) => backup::backup(arguments),
        CaCommand::Restore(arguments) => backup::restore(arguments),
        CaCommand::Drill(arguments) => drill::run(arguments),
        CaCommand::Inspect(arguments) => inspect(arguments),
        CaCommand::Audit(command) => audit::run(command),
    }
}

async fn serve(arguments: &CaServeArgs) -> anyhow::Result<ExitCode> {
    let terminate = signal::terminate()?;
    let config = served(arguments)?;
    // Each connection is one, and there may be more of them than the usual soft limit lets be open.
    proxy::raise_open_files();
    let _lock = ca::directory::ServeLock::acquire(&config.dir)?;
    let (authority, database) = (Arc::new(open(&config)?), database::of(&config)?);
    if let Some(seq) = arguments.accept_rollback {
        accept_rollback(&authority, seq).await?;
    }
    let attestors = Attestors::open(config.attest).await?;
    let entries = match &config.entries {
        Some(dir) => load_dir(dir)?,
        None => Vec::new(),
    };
    for entry in &entries {
        ca::authority::check_workload_id(entry.id(), authority.trust_domain())
            .context("reading entries.dir")?;
    }
    let server =
        ca::server::Server::bind(Arc::clone(&authority), config.listen, config.limits.clone())
            .await?
            .believing(attestors)
            .with_entries(entries)
            .administered_by(config.administrators)
            .rotating(config.rotation);
    let server = match config.jwt {
        Some(options) => server.issuing_tokens(options).await?,
        None => server,
    };
    let own = authority.trust_domain();
    ensure!(
        config.federation.iter().all(|one| one.trust_domain != *own),
        "federation: expected other trust domains, found {own}, which is this CA's own"
    );
    let federation = Federation::start(config.federation);
    let server = server.federating(&federation);
    tracing::info!(address = %server.address(), trust_domain = %authority.trust_domain(), "CA listening");
    // They end with this function.
    let mut beside = JoinSet::new();
    if let Some(options) = config.bundle_endpoint {
        let endpoint = Endpoint::bind(options, authority.bundle()).await;
        beside.spawn(endpoint.context("bundleEndpoint")?.run());
    }
    if let Some(options) = config.archive {
        let folder = &options.folder;
        let exists = folder.is_dir();
        ensure!(
            exists,
            "audit.archive: expected a folder, found none at {}",
            folder.display()
        );
        beside.spawn(keep_archiving(database, options));
    }
    if let Some(listen) = config.crl_listen {
        serve_crl(&mut beside, listen, Arc::clone(&authority)).await?;
    }
    let monitor = Monitor::start(authority, server.metrics()).await;
    if let Some(listen) = config.admin_listen {
        serve_admin(&mut beside, listen, server.metrics(), monitor.subscribe()).await?;
    }
    tokio::select! {
        () = server.run(terminate) => {}
        () = monitor.run() => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve_crl(
    tasks: &mut JoinSet<()>,
    listen: SocketAddr,
    authority: Arc<Authority>,
) -> anyhow::Result<()> {
    let listener = Listener::bind(listen, crl::LIMITS).await?;
    tasks.spawn(listener.serve(move |request| {
        let authority = Arc::clone(&authority);
        async move { crl::answer(request, &authority).await }
    }));
    Ok(())
}

async fn serve_admin(
    tasks: &mut JoinSet<()>,
    listen: SocketAddr,
    metrics: Arc<Metrics>,
    faults: watch::Receiver<Faults>,
) -> anyhow::Result<()> {
    ensure!(
        listen.ip().is_loopback(),
        "--admin-listen: expected a loopback address, found {listen}"
    );
    let listener = local::Listener::bind(listen).await?;
    tasks.spawn(listener.serve(move |_, request| {
        std::future::ready(admin::answer(&request, &metrics, &faults.borrow()))
    }));
    Ok(())
}

/// Only of what the operator names: an option that was left in a unit file accepts nothing that is lost later.
async fn accept_rollback(authority: &Authority, seq: i64) -> anyhow::Result<()> {
    let accepted = authority
        .store()
        .accept_rollback(seq, SystemTime::now())
        .await;
    match accepted.context("accepting the rollback")? {
        Ok(Some(lost)) => tracing::warn!(
            seq = lost.seq,
            hash = %lost.hash,
            "what the ledger had up to this record is given up, and unused join tokens are void"
        ),
        Ok(None) => {
            tracing::warn!("--accept-rollback: no sidecar has shown that anything was lost")
        }
        Err(refused) => {
            tracing::error!(%refused, "--accept-rollback: nothing is accepted, and nothing issued")
        }
    }
    Ok(())
}

/// The file, or the flags that stand for one.
fn served(arguments: &CaServeArgs) -> anyhow::Result<CaConfig> {
    let mut config = configured_with_keys(&arguments.keys)?;
    config.listen = arguments.listen.unwrap_or(config.listen);
    config.admin_listen = arguments.admin_listen.or(config.admin_listen);
    config.crl_listen = arguments.crl_listen.or(config.crl_listen);
    config
        .server_names
        .extend(arguments.server_names.iter().cloned());
    if arguments.allow_short_ttl_for_tests {
        config.ttl_floor = TtlFloor::AllowShortTtlForTests;
    }
    Ok(config)
}

async fn create_token(arguments: &TokenCreateArgs) -> anyhow::Result<ExitCode> {
    let config = configured(&arguments.dir)?;
    let database = database::of(&config)?;
    let store = Store::open(&database)?;
    let now = SystemTime::now();
    let overview = ca::inspect::overview(&config.dir, &database, now)?;
    ca::authority::check_workload_id(&arguments.id, &overview.trust_domain.parse()?)?;
    let token = JoinToken::generate();
    let grant = TokenGrant {
        spiffe_id: arguments.id.clone(),
        created_at: now,
        expires_at: now
            .checked_add(arguments.expires_in)
            .context("--expires-in: too long")?,
        ttl: None,
    };
    store.create_token(&token, grant).await?;
    print(format_args!("{}\n", *token.reveal()))?;
    Ok(ExitCode::SUCCESS)
}

async fn issue(arguments: &CaIssueArgs) -> anyhow::Result<ExitCode> {
    let file = &arguments.csr;
    let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let der = match CertificateSigningRequestDer::from_pem_slice(&bytes) {
        Ok(request) => request.to_vec(),
        // No PEM in it: then it is DER, or refused as such.
        Err(_) => bytes,
    };
    let public_key =
        PublicKey::from_csr(&der).with_context(|| format!("reading {}", file.display()))?;
    let mut config = configured_with_keys(&arguments.keys)?;
    if arguments.allow_short_ttl_for_tests {
        config.ttl_floor = TtlFloor::AllowShortTtlForTests;
    }
    let authority = open(&config)?;
    let request = Request {
        id: arguments.id.clone(),
        dns_names: arguments.dns_names.iter().cloned().collect(),
        public_key,
        ttl: Some(arguments.ttl),
        until: None,
        requester: Requester::Operator,
    };
    let issued = authority.issue(request).await?;
    print(format_args!("{}", identity::pem::encode(&issued.chain)))?;
    eprintln!("issued {} with serial {}", issued.id, issued.serial);
    Ok(ExitCode::SUCCESS)
}

fn list(arguments: &CaListArgs) -> anyhow::Result<ExitCode> {
    let database = database::of(&configured(&arguments.dir)?)?;
    let certificates = ca::inspect::certificates(&database, SystemTime::now(), arguments.limit)?;
    match arguments.output.output {
        Output::Json => print_json(&certificates)?,
        Output::Text => {
            for certificate in &certificates {
                print(format_args!(
                    "{} {} until {}{}\n",
                    certificate.serial,
                    certificate.spiffe_id,
                    certificate.not_after,
                    if certificate.frozen {
                        ", lineage frozen"
                    } else {
                        ""
                    }
                ))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn inspect(arguments: &CaInspectArgs) -> anyhow::Result<ExitCode> {
    let config = configured(&arguments.dir)?;
    let database = database::of(&config)?;
    let json = match &arguments.serial {
        None => {
            let overview = ca::inspect::overview(&config.dir, &database, SystemTime::now())?;
            serde_json::to_value(overview)
        }
        Some(serial) => {
            let Some((certificate, der)) = ca::inspect::certificate(&database, serial)? else {
                eprintln!("this CA issued no certificate with serial {serial}");
                return Ok(answer(false));
            };
            serde_json::to_value(certificate).map(|mut value| {
                value["pem"] = identity::pem::encode(&[der]).into();
                value
            })
        }
    }
    .context("describing the CA")?;
    match arguments.output.output {
        Output::Json => print_json(&json)?,
        Output::Text => print_fields(&json, "")?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The configuration that is named, or that of a CA in the directory that is.
fn configured(place: &CaDirArgs) -> anyhow::Result<CaConfig> {
    match (&place.config, &place.dir) {
        (Some(file), _) => Ok(CaConfig::load(file)?),
        (None, Some(dir)) => Ok(CaConfig::of_dir(dir)),
        (None, None) => bail!("expected --config or --dir"),
    }
}

fn configured_with_keys(keys: &CaKeyArgs) -> anyhow::Result<CaConfig> {
    let mut config = configured(&keys.dir)?;
    if let Some(file) = &keys.passphrase_file {
        config.keys.passphrase = SecretSource::File(file.clone());
    }
    Ok(config)
}

fn open(config: &CaConfig) -> anyhow::Result<Authority> {
    let options = keys::open_options(config)?;
    Ok(Authority::open(&config.dir, &options)?)
}

/// One runtime for every command of the CA; signing and the database have threads of their own.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(future)
}
