//! `tipstaff ca rotate`: each step beside the running CA, which follows.

use super::{Output, answer, configured, configured_with_keys, database, keys, print, print_json};
use crate::cli::ca::rotate::{
    RotateAbandonArgs, RotateActivateArgs, RotateCommand, RotatePrepareArgs, RotateRetireArgs,
    RotateStatusArgs,
};
use anyhow::Context;
use ca::rotation::{self, By, Lives, Prepared, Refused, Role, Silent, Step};
use ca::store::{Store, Terms};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

pub(super) async fn run(command: &RotateCommand) -> anyhow::Result<ExitCode> {
    match command {
        RotateCommand::Prepare(arguments) => prepare(arguments).await,
        RotateCommand::Activate(arguments) => activate(arguments).await,
        RotateCommand::Retire(arguments) => retire(arguments).await,
        RotateCommand::Abandon(arguments) => abandon(arguments).await,
        RotateCommand::Status(arguments) => status(arguments),
    }
}

async fn prepare(arguments: &RotatePrepareArgs) -> anyhow::Result<ExitCode> {
    let config = configured_with_keys(&arguments.keys)?;
    let (options, role) = (keys::open_options(&config)?, arguments.what.role());
    let store = Store::open(database::of(&config)?)?;
    let prepared = match &arguments.chain {
        Some(file) => {
            let reading = || format!("reading {}", file.display());
            let chain = std::fs::read(file).with_context(reading)?;
            let accepted = rotation::accept(&options, &store, role, chain, By::Operator).await;
            accepted.with_context(reading)?
        }
        None => {
            let usual = config.rotation.lives;
            let lives = Lives {
                root: arguments.root_life.unwrap_or(usual.root),
                intermediate: arguments.intermediate_life.unwrap_or(usual.intermediate),
            };
            rotation::prepare(&config.dir, &options, &store, role, lives, By::Operator).await?
        }
    };
    match prepared {
        Prepared::Ready(name) => {
            eprintln!(
                "prepared the {role} {name}; `tipstaff ca rotate activate --{role}` has it sign"
            );
        }
        Prepared::Requested(request) => {
            print(format_args!("{request}"))?;
            eprintln!(
                "the root's key is elsewhere: have the request signed there, with CA true and path length 0, and take the chain back with --chain"
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn activate(arguments: &RotateActivateArgs) -> anyhow::Result<ExitCode> {
    let config = configured(&arguments.dir)?;
    let store = Store::open(database::of(&config)?)?;
    let (role, now) = (arguments.what.role(), SystemTime::now());
    let percent = arguments.acknowledged_percent;
    let terms = Terms {
        percent: percent.unwrap_or(config.rotation.acknowledged_percent),
        published_for: arguments
            .published_for
            .unwrap_or(rotation::DEFAULT_PUBLISHED_FOR),
        force: arguments.force,
    };
    let done = store
        .activate_authority(role, terms, By::Operator, now)
        .await?;
    Ok(told("active", role, &done))
}

async fn retire(arguments: &RotateRetireArgs) -> anyhow::Result<ExitCode> {
    let store = Store::open(database::of(&configured(&arguments.dir)?)?)?;
    let (role, now) = (arguments.what.role(), SystemTime::now());
    let terms = Terms {
        percent: 100,
        published_for: Duration::ZERO,
        force: arguments.force,
    };
    let done = store
        .retire_authority(role, terms, By::Operator, now)
        .await?;
    Ok(told("retired", role, &done))
}

async fn abandon(arguments: &RotateAbandonArgs) -> anyhow::Result<ExitCode> {
    let store = Store::open(database::of(&configured(&arguments.dir)?)?)?;
    let (role, now) = (arguments.what.role(), SystemTime::now());
    let done = store.abandon_authority(role, By::Operator, now).await?;
    let told = told("given up", role, &done);
    if done.is_ok() {
        eprintln!(
            "a CA that serves and replaces the {role} by its age prepares another within a minute; `rotation: {{automatic: false}}` keeps it from that"
        );
    }
    Ok(told)
}

fn told(state: &str, role: Role, done: &Result<Step, Refused>) -> ExitCode {
    match done {
        Err(refused) => {
            eprintln!("{refused}");
            return answer(false);
        }
        Ok(step) if step.authorities.is_empty() => {
            eprintln!("nothing to do: the {role} is {state} since an earlier step");
        }
        Ok(step) => {
            for blocker in &step.despite {
                eprintln!("forced: {}", blocker.consequence());
            }
            for name in &step.authorities {
                eprintln!("{state}: {name}");
            }
            for object in &step.left_in_token {
                eprintln!(
                    "still in the token: object {object}; delete it there once no backup may need it"
                );
            }
            let Silent { count, first } = &step.silent;
            if *count > 0 {
                let first = first.join(", ");
                eprintln!(
                    "not waited for: {count} that never said which bundle they have: {first}"
                );
            }
        }
    }
    answer(true)
}

fn status(arguments: &RotateStatusArgs) -> anyhow::Result<ExitCode> {
    let config = configured(&arguments.dir)?;
    let status = rotation::status(&config.dir, &database::of(&config)?, SystemTime::now())?;
    match arguments.output.output {
        Output::Json => print_json(&status)?,
        Output::Text => print(format_args!("{status}"))?,
    }
    Ok(ExitCode::SUCCESS)
}
