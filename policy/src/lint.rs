//! What is allowed to be written and probably not meant.

use std::{collections::HashMap, time::SystemTime};

use crate::{
    Policy,
    document::{Clause, Grant, Guard},
    explain::instant,
    pattern::{IdPattern, Methods},
    yaml::Problem,
};

/// Rules of one path that are tried in about a microsecond.
const CROWD: usize = 100;

/// Looks for rules that surprise people. Nothing here changes a decision.
pub fn lint(policy: &Policy, now: SystemTime) -> Vec<Problem> {
    let rules = policy.rules();
    let mut found = crowded(&rules.grants);
    for grant in &rules.grants {
        found.extend(expiry(grant, now));
        found.extend(shadowed(grant));
        found.extend(missing_slash(grant));
        found.extend(every_port(grant));
        for guard in rules
            .guards
            .iter()
            .filter(|guard| guard.scope.overlaps(&grant.scope))
        {
            found.extend(cut_off(grant, guard));
            found.extend(
                grant
                    .allow
                    .requests
                    .iter()
                    .filter_map(|clause| under_guard(grant, clause, guard)),
            );
        }
    }
    found
}

/// Rules that the same callers have on the same path are tried one after another for each request.
fn crowded(grants: &[Grant]) -> Vec<Problem> {
    let mut rules: HashMap<_, Vec<&Clause>> = HashMap::new();
    for grant in grants {
        let callers: Vec<&str> = grant.from.iter().map(IdPattern::as_str).collect();
        for clause in &grant.allow.requests {
            let key = (callers.clone(), clause.path.as_str());
            rules.entry(key).or_default().push(clause);
        }
    }
    let crowds = rules.into_values().filter(|rules| rules.len() > CROWD);
    let mut found: Vec<Problem> = crowds
        .map(|rules| {
            let (first, count) = (rules[0], rules.len());
            first.place.problem(format!(
                "{count} rules of the same callers have the path `{}`: each request there tries them all",
                first.path
            ))
        })
        .collect();
    found.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    found
}

fn expiry(grant: &Grant, now: SystemTime) -> Option<Problem> {
    let end = grant.validity.not_after?;
    let when = instant(Some(end), "");
    if end < now {
        return Some(
            grant
                .place
                .problem(format!("this grant ended at {when} and allows nothing")),
        );
    }
    let soon = now
        .checked_add(grant.validity.warn_before)
        .is_none_or(|warn| end <= warn);
    soon.then(|| {
        grant
            .place
            .problem(format!("this grant ends soon, at {when}"))
    })
}

/// A rule that adds nothing to another one of its grant.
fn shadowed(grant: &Grant) -> Vec<Problem> {
    let mut found = Vec::new();
    for (index, clause) in grant.allow.requests.iter().enumerate() {
        let earlier_or_wider = |(other, wider): &(usize, &Clause)| {
            *other != index && covers(wider, clause) && (*other < index || !covers(clause, wider))
        };
        if let Some((_, wider)) = grant
            .allow
            .requests
            .iter()
            .enumerate()
            .find(earlier_or_wider)
        {
            let (path, line) = (&wider.path, wider.place.line());
            found.push(clause.place.problem(format!(
                "shadowed by `{path}` on line {line}: this rule adds nothing"
            )));
        }
    }
    found
}

/// `/x/**` does not match `/x`.
fn missing_slash(grant: &Grant) -> Vec<Problem> {
    let mut found = Vec::new();
    for clause in &grant.allow.requests {
        let Some(prefix) = clause
            .path
            .as_str()
            .strip_suffix("/**")
            .filter(|prefix| !prefix.is_empty())
        else {
            continue;
        };
        let sample = prefix.replace(['{', '}'], "x");
        if !grant
            .allow
            .requests
            .iter()
            .any(|other| other.path.as_str() == prefix || other.path.matches(&sample))
        {
            found.push(clause.place.problem(format!(
                "`{}` does not match `{prefix}` itself",
                clause.path
            )));
        }
    }
    found
}

/// Whatever listens on a port that somebody opens later would be reached without a word in any policy.
fn every_port(grant: &Grant) -> Option<Problem> {
    let place = grant.allow.tcp.as_ref()?;
    grant.scope.ports.is_empty().then(|| {
        place.problem("opens connections to every port of its callees: better to list `ports`")
    })
}

/// Guards cut off all connections that they reach.
fn cut_off(grant: &Grant, guard: &Guard) -> Option<Problem> {
    let place = grant.allow.tcp.as_ref()?;
    let name = &guard.name;
    if IdPattern::all_covered(&grant.from, &guard.except) {
        return None;
    }
    let message = if guard.except.is_empty() && guard.scope.covers(&grant.scope) {
        format!(
            "never matches: guard {name} reaches these connections, which may carry what it denies"
        )
    } else {
        format!("guard {name} cuts off some of these connections, which may carry what it denies")
    };
    Some(place.problem(message))
}

/// Allowing much and forbidding a part is the shape of every published bypass: the guard has to foresee each way to
/// write the path.
fn under_guard(grant: &Grant, clause: &Clause, guard: &Guard) -> Option<Problem> {
    let (name, path) = (&guard.name, &clause.path);
    for deny in &guard.deny.requests {
        if guard.except.is_empty() && covers(deny, clause) && guard.scope.covers(&grant.scope) {
            return Some(clause.place.problem(format!(
                "never matches: guard {name} denies all of `{path}`"
            )));
        }
        if path.sequence().rest && path.sequence().overlaps(deny.path.sequence()) {
            let denied = &deny.path;
            return Some(clause.place.problem(format!(
                "broad allow `{path}` under guard {name} (`{denied}`): better to list what is allowed"
            )));
        }
    }
    None
}

fn covers(wide: &Clause, narrow: &Clause) -> bool {
    let methods = match (&wide.methods, &narrow.methods) {
        (Methods::Any, _) => true,
        (Methods::Listed(_), Methods::Any) => false,
        (Methods::Listed(wide), Methods::Listed(narrow)) => {
            narrow.iter().all(|method| wide.contains(method))
        }
    };
    let unconditional =
        wide.hosts.is_empty() && wide.headers.is_empty() && wide.grpc == narrow.grpc;
    methods && unconditional && wide.path.sequence().covers(narrow.path.sequence())
}
