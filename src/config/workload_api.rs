//! The section `workloadApi`: a socket on which programs get identities to speak TLS with themselves.

use super::path;
use policy::yaml::{self, Map, Node, Problems};
use proxy::config::octal_mode;
use workload::{Admits, Config, MAX_CONNECTIONS, MODE};

/// Fewer are none for whoever comes second.
const FEWEST_CONNECTIONS: usize = 2;

/// For the workload of a sidecar: processes of the sidecar's own user, unless others are named.
pub(super) fn of_sidecar(node: &Node, problems: &Problems) -> Option<Config> {
    yaml::map(node, problems, |map| {
        let ids = || yaml::list(yaml::number::<u32>);
        let (uids, gids) = (map.optional("uids", ids()), map.optional("gids", ids()));
        let admits = Admits::Listed {
            uids: match (uids, &gids) {
                (Some(uids), _) => uids,
                (None, Some(_)) => Vec::new(),
                (None, None) => vec![rustix::process::geteuid().as_raw()],
            },
            gids: gids.unwrap_or_default(),
        };
        read(map, admits)
    })
}

/// For a whole node: what a process is entitled to is decided for each.
pub(super) fn of_agent(node: &Node, problems: &Problems) -> Option<Config> {
    yaml::map(node, problems, |map| read(map, Admits::Anyone))
}

fn read(map: &mut Map<'_>, admits: Admits) -> Option<Config> {
    let socket = map.required("socket", path);
    let mode = map.optional("mode", octal_mode);
    let most = map.optional("maxConnections", |node, problems| {
        let most: usize = yaml::number(node, problems)?;
        if most >= FEWEST_CONNECTIONS {
            return Some(most);
        }
        problems.push(node.problem(format!(
            "expected at least {FEWEST_CONNECTIONS}, found {most}"
        )));
        None
    });
    Some(Config {
        socket: socket?,
        mode: mode.unwrap_or(MODE),
        admits,
        max_connections: most.unwrap_or(MAX_CONNECTIONS),
    })
}
