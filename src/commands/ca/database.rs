//! Where the CA's records are: what the configuration says, with the files and secrets that it names.

use super::keys::{Ambient, secret_bytes};
use crate::config::ca::{CaConfig, Postgres, Store, Transport};
use anyhow::{Context, bail};
use ca::store::{self, Database, ServerTrust};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::Path;

pub(super) const URL: Ambient = Ambient {
    variable: "TIPSTAFF_CA_DATABASE_URL",
    credential: "tipstaff-ca-database-url",
};

pub(super) fn of(config: &CaConfig) -> anyhow::Result<Database> {
    Ok(match &config.store {
        Store::Sqlite => Database::from(&config.dir),
        Store::Postgres(server) => Database::Postgres(postgres(server)?),
    })
}

fn postgres(server: &Postgres) -> anyhow::Result<store::Postgres> {
    let Some(url) = secret_bytes(&server.url, &URL)? else {
        bail!(
            "expected the URL of the database: give store.postgres.urlFile, set {}, or load the systemd credential {}",
            URL.variable,
            URL.credential
        );
    };
    let url = std::str::from_utf8(&url).context("expected the URL of the database in UTF-8")?;
    let trust = match &server.transport {
        Transport::Authorities(file) => ServerTrust::Authorities(certificates(file)?),
        Transport::SameMachine => ServerTrust::SameMachine,
        Transport::InsecurePlaintext => ServerTrust::InsecurePlaintext,
    };
    store::Postgres::new(url, &trust).context("store.postgres")
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let reading = || format!("reading {}", file.display());
    CertificateDer::pem_file_iter(file)
        .with_context(reading)?
        .collect::<Result<_, _>>()
        .with_context(reading)
}
