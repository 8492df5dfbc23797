//! `jwt:`, without which no tokens are issued.

use ca::jwt::{MAX_TTL, MIN_TTL, Options};
use policy::yaml::{self, Node, Problems};

pub(super) fn read(node: &Node, problems: &Problems) -> Option<Options> {
    yaml::map(node, problems, |map| {
        let ttl = map.optional("ttl", |node, problems| {
            let ttl = yaml::duration(node, problems)?;
            if ttl >= MIN_TTL && ttl <= MAX_TTL {
                return Some(ttl);
            }
            problems.push(node.problem(format!(
                "expected {} s to {} s, found {} s",
                MIN_TTL.as_secs(),
                MAX_TTL.as_secs(),
                ttl.as_secs()
            )));
            None
        });
        let default = Options::default();
        Some(Options {
            ttl: ttl.unwrap_or(default.ttl),
        })
    })
}
