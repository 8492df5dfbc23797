//! `tipstaff policy ...`: the evaluator of the proxy, asked by a person.

use super::{answer, print, print_json};
use crate::cli::{Output, PolicyCommand, PolicyDirArgs, PolicyExplainArgs};
use crate::policy_dir::{self, LoadError};
use ::policy::Caller;
use ::policy::explain::{Call, Question, Request, Verdict, explain};
use ::policy::lint::lint;
use ::policy::testing::{self, Fields};
use ::policy::yaml::Problem;
use anyhow::{Context, bail};
use identity::SpiffeId;
use std::process::ExitCode;
use std::time::SystemTime;

pub(crate) fn run(command: &PolicyCommand) -> anyhow::Result<ExitCode> {
    match command {
        PolicyCommand::Check(arguments) => check(arguments),
        PolicyCommand::Explain(arguments) => explain_one(arguments),
        PolicyCommand::Test(arguments) => test(arguments),
    }
}

fn check(arguments: &PolicyDirArgs) -> anyhow::Result<ExitCode> {
    let policy = match policy_dir::load(&arguments.dir, &arguments.namespace.options()) {
        Err(LoadError::Problems(problems)) if arguments.output.output == Output::Json => {
            let problems: Vec<_> = problems.iter().map(as_json).collect();
            print_json(&serde_json::json!({"problems": problems}))?;
            return Ok(ExitCode::from(2));
        }
        loaded => loaded?,
    };
    let warnings = lint(&policy, SystemTime::now());
    let counts = policy.counts();
    match arguments.output.output {
        Output::Json => print_json(&serde_json::json!({
            "grants": counts.grants, "guards": counts.guards, "limits": counts.limits, "profiles": counts.profiles,
            "problems": [], "warnings": warnings.iter().map(as_json).collect::<Vec<_>>(),
        }))?,
        Output::Text => {
            for warning in &warnings {
                print(format_args!("warning: {warning}\n"))?;
            }
            print(format_args!(
                "{} grants, {} guards, {} limits, {} profiles: no problems\n",
                counts.grants, counts.guards, counts.limits, counts.profiles
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(problem: &Problem) -> serde_json::Value {
    serde_json::json!({
        "file": problem.file, "line": problem.line, "column": problem.column, "key": problem.key, "message": problem.message,
    })
}

fn explain_one(arguments: &PolicyExplainArgs) -> anyhow::Result<ExitCode> {
    let policy = policy_dir::load(&arguments.policy, &arguments.namespace.options())?;
    let from: Option<SpiffeId> = match arguments.from.as_str() {
        "unauthenticated" => None,
        id => Some(id.parse().with_context(|| {
            format!("--from: expected a SPIFFE ID or `unauthenticated`, found {id}")
        })?),
    };
    let headers = arguments
        .headers
        .iter()
        .map(|header| read_header(header))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let fields = Fields(&headers);
    let call = if arguments.tcp {
        Call::Tcp
    } else {
        Call::Request(Request {
            method: arguments.method.as_deref().context("expected --method")?,
            target: arguments.path.as_deref().context("expected --path")?,
            host: arguments.host.as_deref(),
            headers: &fields,
        })
    };
    let explanation = explain(
        &policy,
        &Question {
            caller: from
                .as_ref()
                .map_or(Caller::Unauthenticated, Caller::Identity),
            callee: &arguments.to,
            port: arguments.port,
            call,
            at: arguments.at.unwrap_or_else(SystemTime::now),
        },
    );
    match arguments.output.output {
        Output::Json => print_json(&explanation)?,
        Output::Text => print(format_args!("{explanation}\n"))?,
    }
    Ok(answer(explanation.decision == Verdict::Allow))
}

fn read_header(text: &str) -> anyhow::Result<(String, String)> {
    let Some((name, value)) = text.split_once(':') else {
        bail!("--header: expected `name: value`, found {text:?}");
    };
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

fn test(arguments: &PolicyDirArgs) -> anyhow::Result<ExitCode> {
    let policy = policy_dir::load(&arguments.dir, &arguments.namespace.options())?;
    let report = testing::run(&policy, SystemTime::now()).map_err(LoadError::Problems)?;
    match arguments.output.output {
        Output::Json => print_json(&report)?,
        Output::Text => {
            for failure in &report.failures {
                print(format_args!(
                    "{}: expected {}, found {}\n",
                    failure.at, failure.expected, failure.found
                ))?;
            }
            for rule in &report.unreached {
                print(format_args!("no test reaches {rule}\n"))?;
            }
            print(format_args!(
                "{} passed, {} failed\n",
                report.passed,
                report.failures.len()
            ))?;
        }
    }
    Ok(answer(report.failures.is_empty()))
}
