//! A sidecar that does nothing but serve the Workload API, and an agent.

use super::{Ca, POLICY, Process, free_address, path, wait_for};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A running process with a socket of the Workload API.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) process: Process,
    pub(crate) socket: PathBuf,
}

impl Workload {
    /// As SPIFFE_ENDPOINT_SOCKET has it.
    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// A sidecar for `id`, whose certificates live for `ttl_s` seconds.
    pub(crate) fn sidecar(folder: &Path, ca: &Ca, name: &str, id: &str, ttl_s: u32) -> Self {
        std::fs::create_dir_all(folder.join("policy")).expect("a policy folder");
        std::fs::write(folder.join("policy/policy.yaml"), POLICY).expect("a policy");
        let file = |ending: &str| folder.join(format!("{name}.{ending}"));
        std::fs::write(file("token"), ca.token(id)).expect("a token file");
        let socket = folder.join(name).join("api.sock");
        let text = format!(
            "identity:\n  ca: {{endpoint: \"https://{}\", bundle: \"{}\"}}\n  attest: {{joinTokenFile: \"{}\"}}\n  enrolmentKey: \"{}\"\n  id: {id}\n  ttl: {ttl_s}s\npolicy: {{dir: \"{}/policy\"}}\nadmin: {{listen: \"{}\"}}\nworkloadApi: {{socket: \"{}\"}}\n",
            ca.listen,
            ca.bundle().display(),
            file("token").display(),
            file("key").display(),
            folder.display(),
            free_address(),
            socket.display(),
        );
        std::fs::write(file("yaml"), text).expect("a configuration");
        let arguments = ["proxy", "--config", path(&file("yaml"))].map(str::to_owned);
        Self::start(&arguments, file("log"), socket)
    }

    /// An agent with these entries: identity, selectors and the rest of the entry as YAML.
    #[cfg(feature = "real-programs")]
    pub(crate) fn agent(folder: &Path, ca: &Ca, name: &str, entries: &[(&str, &str)]) -> Self {
        let (config, socket) = Self::configure_agent(folder, ca, name, entries);
        let arguments = ["agent", "--config", path(&config)].map(str::to_owned);
        Self::start(&arguments, config.with_extension("log"), socket)
    }

    /// The same, not started: its configuration and where its socket will be.
    pub(crate) fn configure_agent(
        folder: &Path,
        ca: &Ca,
        name: &str,
        entries: &[(&str, &str)],
    ) -> (PathBuf, PathBuf) {
        let file = |ending: &str| folder.join(format!("{name}.{ending}"));
        let socket = folder.join(name).join("api.sock");
        let mut text = format!(
            "ca: {{endpoint: \"https://{}\", bundle: \"{}\"}}\nworkloadApi: {{socket: \"{}\", mode: \"0666\"}}\nentries:\n",
            ca.listen,
            ca.bundle().display(),
            socket.display(),
        );
        for (place, (id, rest)) in entries.iter().enumerate() {
            let token = file(&format!("{place}.token"));
            std::fs::write(&token, ca.token(id)).expect("a token file");
            text += &format!(
                "  - {{id: \"{id}\", attest: {{joinTokenFile: \"{}\"}}, enrolmentKey: \"{}\", {rest}}}\n",
                token.display(),
                file(&format!("{place}.key")).display(),
            );
        }
        std::fs::write(file("yaml"), text).expect("a configuration");
        (file("yaml"), socket)
    }

    /// Serves there once the process that `command` starts does.
    pub(crate) fn by(command: Command, log: PathBuf, socket: PathBuf) -> Self {
        let process = Process::start(command, log);
        wait_for("the Workload API", || UnixStream::connect(&socket).ok());
        Self { process, socket }
    }

    fn start(arguments: &[String], log: PathBuf, socket: PathBuf) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tipstaff"));
        command.args(arguments);
        Self::by(command, log, socket)
    }
}
