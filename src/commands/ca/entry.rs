//! `tipstaff ca entry`, on the store itself. Over the network the same is the service Administration.

use super::{Output, answer, configured, database, print, print_json};
use crate::cli::ca::CaDirArgs;
use crate::cli::ca::entry::{
    EntryCommand, EntryCreateArgs, EntryDeleteArgs, EntryExportArgs, EntryImportArgs, EntryListArgs,
};
use crate::config::ca::entries::{load_file, to_file};
use anyhow::{Context, ensure};
use ca::entries::{Entry, Written};
use ca::store::{Author, Store};
use std::process::ExitCode;
use std::time::SystemTime;

/// Read at once, so that a long list holds no writer up.
const PAGE: u32 = 1000;

pub(super) async fn run(command: &EntryCommand) -> anyhow::Result<ExitCode> {
    match command {
        EntryCommand::Create(arguments) => create(arguments).await,
        EntryCommand::List(arguments) => list(arguments).await,
        EntryCommand::Delete(arguments) => delete(arguments).await,
        EntryCommand::Import(arguments) => import(arguments).await,
        EntryCommand::Export(arguments) => export(arguments).await,
    }
}

async fn create(arguments: &EntryCreateArgs) -> anyhow::Result<ExitCode> {
    let written = Written {
        id: arguments.id.to_string(),
        selectors: arguments.selectors.clone(),
        ttl_seconds: arguments.ttl.map(|ttl| ttl.as_secs()),
        hint: arguments.hint.clone(),
        dns_names: arguments
            .dns_names
            .iter()
            .map(ToString::to_string)
            .collect(),
        federates_with: arguments
            .federates_with
            .iter()
            .map(ToString::to_string)
            .collect(),
        recovery_grace_seconds: arguments.recovery_grace.map(|grace| grace.as_secs()),
    };
    let entry = Entry::try_from(written)?;
    let name = entry.name();
    let created = keep(&arguments.dir, vec![entry]).await?;
    print(format_args!("{name}\n"))?;
    if created == 0 {
        eprintln!("it was there");
    }
    Ok(ExitCode::SUCCESS)
}

async fn import(arguments: &EntryImportArgs) -> anyhow::Result<ExitCode> {
    let entries = load_file(&arguments.file)?;
    let all = entries.len();
    let created = keep(&arguments.dir, entries).await?;
    eprintln!("made {created} of {all} entries; the others were there");
    Ok(ExitCode::SUCCESS)
}

/// Makes the entries, in their order, up to the first that cannot be; gives how many are new.
async fn keep(place: &CaDirArgs, entries: Vec<Entry>) -> anyhow::Result<usize> {
    let config = configured(place)?;
    let database = database::of(&config)?;
    let now = SystemTime::now();
    let overview = ca::inspect::overview(&config.dir, &database, now)?;
    let trust_domain = overview.trust_domain.parse()?;
    for entry in &entries {
        ca::authority::check_workload_id(entry.id(), &trust_domain)?;
    }
    let store = Store::open(database)?;
    let mut created = 0;
    for entry in entries {
        let text = entry.name();
        let new = store.create_entry(entry, Author::Operator, now).await?;
        created += usize::from(new.with_context(|| format!("entry {text}"))?);
    }
    Ok(created)
}

async fn delete(arguments: &EntryDeleteArgs) -> anyhow::Result<ExitCode> {
    let store = Store::open(database::of(&configured(&arguments.dir)?)?)?;
    let name = arguments.name.clone();
    let deleted = store
        .delete_entry(name, Author::Operator, SystemTime::now())
        .await?;
    if !deleted {
        eprintln!("there is no entry {}", arguments.name);
    }
    Ok(answer(deleted))
}

async fn list(arguments: &EntryListArgs) -> anyhow::Result<ExitCode> {
    let entries = all(&arguments.dir).await?;
    match arguments.output.output {
        Output::Json => {
            let named = |entry: &Entry| {
                let mut value = serde_json::to_value(entry.to_written())?;
                value["name"] = entry.name().into();
                Ok(value)
            };
            let entries: serde_json::Result<Vec<_>> = entries.iter().map(named).collect();
            print_json(&entries.context("writing JSON")?)?;
        }
        Output::Text => {
            for entry in &entries {
                let Written { id, selectors, .. } = entry.to_written();
                let selectors = selectors.join(" ");
                print(format_args!("{} {id} {selectors}\n", entry.name()))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn export(arguments: &EntryExportArgs) -> anyhow::Result<ExitCode> {
    print_json(&to_file(&all(&arguments.dir).await?))?;
    Ok(ExitCode::SUCCESS)
}

async fn all(place: &CaDirArgs) -> anyhow::Result<Vec<Entry>> {
    let store = Store::open(database::of(&configured(place)?)?)?;
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let after = entries.last().map(Entry::name).unwrap_or_default();
        let page = store.entries(after.clone(), PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(entries);
        };
        ensure!(last.name() > after, "the entries are in no order");
        entries.extend(page);
    }
}
