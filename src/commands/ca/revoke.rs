//! `tipstaff ca revoke`, `reinstate` and `list --revoked`.

use super::{Output, answer, configured, database, print, print_json};
use crate::cli::ca::CaListArgs;
use crate::cli::ca::revoke::{CaReinstateArgs, CaRevokeArgs, Revoked};
use anyhow::{Context, bail};
use ca::lineage::LineageName;
use ca::revoke::Target;
use ca::store::Store;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

pub(super) async fn revoke(arguments: &CaRevokeArgs) -> anyhow::Result<ExitCode> {
    let config = configured(&arguments.dir)?;
    let target = target(&arguments.what)?;
    if let Target::Authority(_) = &target
        && ca::inspect::is_signing(&config.dir, &database::of(&config)?, &target)?
    {
        bail!(
            "this CA signs with that authority, or its own certificate: expected another one to be active, and then `tipstaff ca rotate retire --root --force`, which revokes an old root"
        );
    }
    let store = Store::open(database::of(&config)?)?;
    let revoked = store
        .revoke(target.clone(), arguments.reason, SystemTime::now())
        .await?;
    match revoked {
        Ok(certificates) => {
            eprintln!("revoked {target}: {certificates} certificates that have not expired");
            Ok(ExitCode::SUCCESS)
        }
        Err(refused) => {
            eprintln!("{refused}");
            Ok(answer(false))
        }
    }
}

pub(super) async fn reinstate(arguments: &CaReinstateArgs) -> anyhow::Result<ExitCode> {
    let target = match (&arguments.what.id, &arguments.what.lineage) {
        (Some(id), _) => Target::Identity(id.clone()),
        (None, Some(name)) => Target::Lineage(LineageName::new(&**name)),
        (None, None) => bail!("expected --id or --lineage"),
    };
    let store = Store::open(database::of(&configured(&arguments.dir)?)?)?;
    let reason = arguments.reason.clone();
    if let Err(refused) = store
        .lift(target.clone(), reason, SystemTime::now())
        .await?
    {
        eprintln!("{refused}");
        return Ok(answer(false));
    }
    eprintln!("the {target} may have certificates again; those it had stay revoked");
    Ok(ExitCode::SUCCESS)
}

pub(super) fn list(arguments: &CaListArgs) -> anyhow::Result<ExitCode> {
    let database = database::of(&configured(&arguments.dir)?)?;
    let revoked = ca::inspect::revocations(&database, arguments.limit)?;
    match arguments.output.output {
        Output::Json => print_json(&revoked)?,
        Output::Text => {
            for revoked in &revoked {
                print(format_args!("{revoked}\n"))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn target(what: &Revoked) -> anyhow::Result<Target> {
    Ok(match what {
        Revoked {
            serial: Some(serial),
            ..
        } => Target::Serial(serial.to_ascii_lowercase()),
        Revoked { id: Some(id), .. } => {
            ca::authority::check_workload_id(id, &id.trust_domain())?;
            Target::Identity(id.clone())
        }
        Revoked {
            lineage: Some(name),
            ..
        } => Target::Lineage(LineageName::new(&**name)),
        Revoked {
            authority: Some(file),
            ..
        } => authority(file)?,
        _ => bail!("expected --serial, --id, --lineage or --authority"),
    })
}

fn authority(file: &Path) -> anyhow::Result<Target> {
    let der = CertificateDer::from_pem_file(file)
        .with_context(|| format!("reading {}", file.display()))?;
    Target::authority(&der)
        .with_context(|| format!("expected a CA certificate of ours in {}", file.display()))
}
