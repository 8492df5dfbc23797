//! A sidecar as a process: its configuration, its start, and what a test asks of it.

use super::clock::Clock;
use super::http::{self, Reply, get};
use super::{Ca, ORDERS, Options, Process, free_address, path, wait_for};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a process says once it is alone in serving.
const TAKEN_OVER: &str = "taken over from the process before this one";

/// A running sidecar.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) process: Process,
    pub(crate) inbound: SocketAddr,
    /// Where it listens for [`Options::beside`].
    beside: Vec<SocketAddr>,
    pub(crate) outbound: SocketAddr,
    /// Where opaque TCP to the orders service begins, if the options say so.
    pub(crate) tcp: SocketAddr,
    /// The same, as a Unix socket.
    pub(crate) tcp_socket: PathBuf,
    pub(crate) admin: SocketAddr,
    pub(crate) socket: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) clock: Option<Clock>,
}

impl Sidecar {
    /// A call as the workload beside this sidecar makes it.
    pub(crate) fn call(&self, method: &str, target: &str) -> Reply {
        http::call(
            self.outbound,
            &format!("{method} {target} HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n"),
        )
    }

    pub(crate) fn ready(&self) -> bool {
        get(self.admin, "/ready").is_some_and(|reply| reply.status == 200)
    }

    pub(crate) fn identity(&self) -> serde_json::Value {
        let reply = get(self.admin, "/identity").expect("the admin port answers");
        serde_json::from_str(&reply.body).expect("JSON")
    }

    pub(crate) fn serial(&self) -> String {
        self.identity()["serial"]
            .as_str()
            .expect("a serial")
            .to_owned()
    }

    /// Starts a new process of the same configuration to take over from this one; it logs beside it, as `name` says.
    pub(crate) fn successor(&self, name: &str) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tipstaff"));
        command.args(["proxy", "--config", path(&self.config), "--upgrade"]);
        let log = self.config.with_extension(format!("{name}.log"));
        Process::start(command, log)
    }

    /// Puts a new process in the place of this one, and answers with the old one once it drains.
    pub(crate) fn upgrade(&mut self, name: &str) -> Process {
        let successor = self.successor(name);
        wait_for("the new process to have taken over", || {
            successor.log_text().contains(TAKEN_OVER).then_some(())
        });
        std::mem::replace(&mut self.process, successor)
    }

    /// kill -9, and a new process in its place, which may not be ready yet.
    pub(crate) fn restart(&mut self) {
        self.process.kill();
        let log = self.process.log.clone();
        self.process = Process::start(command(&self.config, self.clock.as_ref()), log);
    }

    /// POST /rotate on the administration socket.
    pub(crate) fn rotate(&self) -> Reply {
        let stream =
            std::os::unix::net::UnixStream::connect(&self.socket).expect("the admin socket");
        http::exchange(stream, b"POST /rotate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .expect("an answer")
    }
}

/// What a sidecar is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role<'r> {
    /// Before an app: `host:port`, or `unix:` and a path.
    Serves { app: &'r str },
    /// Before a workload that calls the orders service, whose sidecar this is.
    Calls { orders: &'r Sidecar },
}

fn command(config: &Path, clock: Option<&Clock>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tipstaff"));
    command.args(["proxy", "--config", path(config)]);
    if let Some(clock) = clock {
        clock.give(&mut command);
    }
    command
}

/// Starts a sidecar and waits until it is ready.
pub(super) fn start(
    folder: &Path,
    ca: &Ca,
    (name, id): (&str, &str),
    role: Role<'_>,
    options: &Options,
) -> Sidecar {
    let [inbound, outbound, tcp, admin] = std::array::from_fn(|_| free_address());
    let beside: Vec<_> = options.beside.iter().map(|_| free_address()).collect();
    let own = folder.join(name);
    std::fs::create_dir(&own).expect("a folder for the sockets");
    let socket = folder.join(format!("{name}.sock"));
    let tcp_socket = own.join(options.tcp.unwrap_or_default());
    std::fs::write(folder.join(format!("{name}.token")), ca.token(id)).expect("a token file");
    let folder_text = folder.display();
    let mut text = format!(
        "identity:\n  ca: {{endpoint: \"https://{}\", bundle: \"{}\"}}\n  attest: {{joinTokenFile: \"{folder_text}/{name}.token\"}}\n  enrolmentKey: \"{folder_text}/{name}.key\"\n  id: {id}\n  ttl: {}s\n",
        ca.listen,
        ca.bundle().display(),
        options.ttl.as_secs(),
    );
    text += &match role {
        Role::Serves { app } => {
            let protocol = options.tcp.map_or("http", |_| "tcp");
            let own = (&inbound, (&protocol, app));
            let more = options
                .beside
                .iter()
                .map(|(protocol, app)| (protocol, app.as_str()));
            let all = std::iter::once(own).chain(beside.iter().zip(more));
            let lines = all.map(|(listen, (protocol, app))| {
                format!("  - {{listen: \"{listen}\", app: \"{app}\", protocol: {protocol}}}\n")
            });
            format!("inbound:\n{}", lines.collect::<String>())
        }
        Role::Calls { orders } => {
            let at = |orders| format!("endpoints: [\"{orders}\"], identity: \"{ORDERS}\"");
            let service = at(&orders.inbound);
            let services = match options.tcp {
                None => {
                    let mut services = format!("{{hosts: [orders], {service}, timeout: 5s}}");
                    let mut tcp_services = String::new();
                    for (n, ((protocol, _), listen)) in
                        options.beside.iter().zip(&orders.beside).enumerate()
                    {
                        let service = at(listen);
                        if *protocol == "tcp" {
                            tcp_services += &format!("{{listen: \"{tcp}\", {service}}}");
                        } else {
                            services +=
                                &format!(", {{hosts: [orders-{n}], {service}, timeout: 5s}}");
                        }
                    }
                    format!("services: [{services}]\n  tcp: [{tcp_services}]")
                }
                Some(_) => format!(
                    "services: []\n  tcp:\n    - {{listen: \"{tcp}\", {service}}}\n    - {{listen: \"unix:{}\", {service}}}",
                    tcp_socket.display()
                ),
            };
            format!("outbound:\n  listen: \"{outbound}\"\n  {services}\n")
        }
    };
    text += &format!(
        "policy: {{dir: \"{folder_text}/policy\"}}\nadmin: {{listen: \"{admin}\", socket: \"{}\"}}\n{}",
        socket.display(),
        options.extra
    );
    let config = folder.join(format!("{name}.yaml"));
    std::fs::write(&config, text).expect("a configuration");
    let clock = options
        .own_clocks
        .then(|| Clock::new(folder.join(format!("{name}.clock"))));
    let mut command = command(&config, clock.as_ref());
    command.env("TIPSTAFF_LOG", options.log_level);
    let process = Process::start(command, folder.join(format!("{name}.log")));
    let sidecar = Sidecar {
        process,
        inbound,
        beside,
        outbound,
        tcp,
        tcp_socket,
        admin,
        socket,
        config,
        clock,
    };
    wait_for(&format!("{name} to be ready"), || {
        sidecar.ready().then_some(())
    });
    sidecar
}
