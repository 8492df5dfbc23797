//! `rotation:`, when the CA replaces its own certificates.

use ca::config::{MAX_CA_LIFE, MIN_CA_LIFE};
use ca::rotation::{Lives, Options};
use policy::yaml::{self, Node, Problems};
use std::time::Duration;

pub(super) fn read(node: &Node, problems: &Problems) -> Option<Options> {
    yaml::map(node, problems, |map| {
        let automatic = map.optional("automatic", yaml::boolean);
        let prepare_at = map.optional("prepareAtPercent", percent);
        let acknowledged = map.optional("acknowledgedPercent", percent);
        let activate_after = map.optional("activateAfter", yaml::duration);
        let retire_after = map.optional("retireAfter", yaml::duration);
        let root = map.optional("rootLife", life);
        let intermediate = map.optional("intermediateLife", life);
        let default = Options::default();
        Some(Options {
            automatic: automatic.unwrap_or(default.automatic),
            prepare_at_percent: prepare_at.unwrap_or(default.prepare_at_percent),
            acknowledged_percent: acknowledged.unwrap_or(default.acknowledged_percent),
            activate_after: activate_after.unwrap_or(default.activate_after),
            retire_after: retire_after.unwrap_or(default.retire_after),
            lives: Lives {
                root: root.unwrap_or(default.lives.root),
                intermediate: intermediate.unwrap_or(default.lives.intermediate),
            },
        })
    })
}

fn percent(node: &Node, problems: &Problems) -> Option<u8> {
    let percent: u8 = yaml::number(node, problems)?;
    if (1..=100).contains(&percent) {
        return Some(percent);
    }
    problems.push(node.problem(format!("expected 1 to 100, found {percent}")));
    None
}

fn life(node: &Node, problems: &Problems) -> Option<Duration> {
    let life = yaml::duration(node, problems)?;
    if (MIN_CA_LIFE..=MAX_CA_LIFE).contains(&life) {
        return Some(life);
    }
    let [least, most] = [MIN_CA_LIFE, MAX_CA_LIFE].map(|life| life.as_secs() / (24 * 60 * 60));
    problems.push(node.problem(format!("expected a life of {least}d to {most}d")));
    None
}
