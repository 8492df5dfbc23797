//! What opens the CA's keys: where the operator put passphrase and PIN.

use super::database;
use crate::config::ca::{CaConfig, SecretSource};
use anyhow::{Context, bail};
use ca::config::{KeyProtection, OpenOptions};
use ca::keys::Passphrase;
use ca::signer::pkcs11::Token;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use zeroize::Zeroizing;

/// Where systemd puts the credentials of a unit (systemd.exec(5), `LoadCredential=`).
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// A secret that is handed to the process when no file is named.
pub(super) struct Ambient {
    pub(super) variable: &'static str,
    pub(super) credential: &'static str,
}

pub(super) const PASSPHRASE: Ambient = Ambient {
    variable: "TIPSTAFF_CA_PASSPHRASE",
    credential: "tipstaff-ca-passphrase",
};

pub(super) const PIN: Ambient = Ambient {
    variable: "TIPSTAFF_CA_PIN",
    credential: "tipstaff-ca-pin",
};

/// How a new CA's keys are to rest.
pub(super) fn protection(config: &CaConfig, plaintext: bool) -> anyhow::Result<KeyProtection> {
    if let Some(token) = token(config)? {
        if plaintext {
            bail!(
                "--insecure-plaintext-keys: the configuration puts the keys into a PKCS#11 token"
            );
        }
        return Ok(KeyProtection::Token(token));
    }
    if plaintext {
        return Ok(KeyProtection::InsecurePlaintext);
    }
    let Some(passphrase) = secret(&config.keys.passphrase, &PASSPHRASE)? else {
        bail!(
            "expected a passphrase for the CA's keys: give --passphrase-file, set {}, or load the systemd credential {}; to store them in the clear, ask for it with --insecure-plaintext-keys",
            PASSPHRASE.variable,
            PASSPHRASE.credential
        );
    };
    Ok(KeyProtection::Encrypted(passphrase))
}

pub(super) fn open_options(config: &CaConfig) -> anyhow::Result<OpenOptions> {
    Ok(OpenOptions {
        passphrase: secret(&config.keys.passphrase, &PASSPHRASE)?,
        token: token(config)?,
        ttl_floor: config.ttl_floor,
        database: Some(database::of(config)?),
        server_names: config.server_names.clone(),
    })
}

fn token(config: &CaConfig) -> anyhow::Result<Option<Token>> {
    let Some(pkcs11) = &config.keys.pkcs11 else {
        return Ok(None);
    };
    let Some(pin) = secret(&pkcs11.pin, &PIN)? else {
        bail!(
            "expected the PIN of the token {:?}: give keys.pkcs11.pinFile, set {}, or load the systemd credential {}",
            pkcs11.token,
            PIN.variable,
            PIN.credential
        );
    };
    Ok(Some(Token {
        module: pkcs11.module.clone(),
        label: pkcs11.token.clone(),
        pin,
    }))
}

/// From the file that is named; else from the environment; else from the unit's credentials.
pub(super) fn secret(
    source: &SecretSource,
    ambient: &Ambient,
) -> anyhow::Result<Option<Passphrase>> {
    let Some(bytes) = secret_bytes(source, ambient)? else {
        return Ok(None);
    };
    let whence = || match source {
        SecretSource::File(file) => format!("reading {}", file.display()),
        SecretSource::Ambient => ambient.variable.to_owned(),
    };
    Passphrase::new(bytes).map(Some).with_context(whence)
}

/// The same, as it was found.
pub(super) fn secret_bytes(
    source: &SecretSource,
    ambient: &Ambient,
) -> anyhow::Result<Option<Zeroizing<Vec<u8>>>> {
    if let SecretSource::File(file) = source {
        return read(file).map(Some);
    }
    if let Some(text) = std::env::var_os(ambient.variable) {
        return Ok(Some(Zeroizing::new(text.into_vec())));
    }
    let Some(credentials) = std::env::var_os(CREDENTIALS_VARIABLE) else {
        return Ok(None);
    };
    let file = Path::new(&credentials).join(ambient.credential);
    // A unit may have credentials for other purposes.
    if !file.exists() {
        return Ok(None);
    }
    read(&file).map(Some)
}

fn read(file: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    std::fs::read(file)
        .map(Zeroizing::new)
        .with_context(|| format!("reading {}", file.display()))
}
