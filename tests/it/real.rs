//! The other side is software we did not write: curl and openssl as clients, nginx and Python as apps, PostgreSQL and
//! Redis with their own clients, grpcio, websockets and wsproto as both; programs that take their identity from the
//! Workload API.

mod backup;
mod bundle_endpoint;
mod clock;
mod crl;
mod curl;
mod docker;
mod durability;
mod external_root;
mod full_disk;
mod gateway;
mod grpc;
mod kubernetes;
mod linters;
mod long_streams;
mod openssl;
mod outside;
mod pkcs11;
mod pkcs11_rotation;
mod postgres;
mod postgres_ca;
mod postgres_init;
mod postgres_restore;
mod postgres_rotation;
mod postgres_rules;
mod postgres_tls;
mod redirect;
mod redis;
mod sds;
mod spiffe_crates;
mod websocket;
mod workload_api;
mod wsproto;

use crate::harness::{Ca, Mesh, PATIENCE, Process, free_address, path, tipstaff_ok, wait_for};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

/// The Python that has the packages `tests/run` installs.
fn python() -> Command {
    let python = std::env::var("TIPSTAFF_TEST_PYTHON");
    Command::new(
        python.expect("TIPSTAFF_TEST_PYTHON: run these tests through tests/run, which sets it"),
    )
}

/// Runs a program to its end and returns what it printed and how it ended.
fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// The same, which has to succeed; returns standard output.
fn run_ok(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A program that is talked to a line at a time; killed at the end.
struct Session {
    child: Child,
    input: ChildStdin,
    /// What it prints, errors included.
    lines: Receiver<String>,
}

impl Session {
    fn start(mut command: Command) -> Self {
        let (reader, output) = std::io::pipe().expect("a pipe");
        let mut child = command
            .stdin(Stdio::piped())
            .stderr(output.try_clone().expect("a second handle"))
            .stdout(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        // With it goes our copy of the pipe's end.
        drop(command);
        let input = child.stdin.take().expect("it is piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let printed = BufReader::new(reader).lines().map_while(Result::ok);
            // Once the session is gone nobody listens.
            printed
                .map_while(|line| sender.send(line).ok())
                .for_each(drop);
        });
        Self {
            child,
            input,
            lines,
        }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("the program reads");
    }

    /// The same to a program that may have ended.
    fn try_say(&mut self, line: &str) {
        writeln!(self.input, "{line}").ok();
    }

    /// The next line that has `part` in it.
    fn hear(&self, part: &str) -> String {
        let mut heard = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => heard.push(line),
                Err(error) => panic!("expected {part:?}, {error:?} after {heard:?}"),
            }
        }
    }

    /// What is still printed until the program ends, and how it ends.
    fn end(mut self) -> (Vec<String>, ExitStatus) {
        let mut rest = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => rest.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it goes on after {rest:?}"),
            }
        }
        let status = self.child.wait().expect("it is ours");
        (rest, status)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Waits until both sidecars have had `count` certificates, and calls `meanwhile` at each look.
fn while_rotating(mesh: &Mesh, count: usize, mut meanwhile: impl FnMut()) {
    let mut serials = [BTreeSet::new(), BTreeSet::new()];
    wait_for("certificates to be renewed", || {
        serials[0].insert(mesh.storefront.serial());
        serials[1].insert(mesh.orders.serial());
        meanwhile();
        let have = serials.iter().map(BTreeSet::len).min();
        have.filter(|have| *have >= count)
    });
}

/// A key made by openssl and the chain that the CA issued for it.
struct Credentials {
    key: PathBuf,
    chain: PathBuf,
}

impl Credentials {
    /// A person's way to a certificate: openssl makes key and CSR, `tipstaff ca issue` signs.
    fn issue(ca: &Ca, folder: &Path, name: &str, id: &str) -> Self {
        Self::issue_naming(ca, folder, (name, id), &[])
    }

    fn issue_naming(ca: &Ca, folder: &Path, (name, id): (&str, &str), dns_names: &[&str]) -> Self {
        let file = |ending: &str| folder.join(format!("{name}.{ending}"));
        let (key, csr, chain) = (file("key.pem"), file("csr.pem"), file("pem"));
        run_ok(
            "openssl",
            &[
                "ecparam",
                "-name",
                "prime256v1",
                "-genkey",
                "-noout",
                "-out",
                path(&key),
            ],
        );
        run_ok(
            "openssl",
            &[
                "req",
                "-new",
                "-key",
                path(&key),
                "-subj",
                "/CN=ignored",
                "-out",
                path(&csr),
            ],
        );
        let mut arguments = vec![
            "ca",
            "issue",
            "--dir",
            path(&ca.dir),
            "--id",
            id,
            "--csr",
            path(&csr),
        ];
        arguments.extend(dns_names.iter().flat_map(|name| ["--dns-name", name]));
        let pem = tipstaff_ok(&arguments);
        std::fs::write(&chain, pem).expect("a chain file");
        Self { key, chain }
    }
}

/// nginx that answers 200 with the request line it got.
fn nginx(folder: &Path) -> (Process, SocketAddr) {
    let address = free_address();
    let config = folder.join("nginx.conf");
    let text = format!(
        "daemon off; pid {0}/nginx.pid; error_log stderr;\nevents {{}}\nhttp {{ access_log off; client_body_temp_path {0}; proxy_temp_path {0}; fastcgi_temp_path {0}; uwsgi_temp_path {0}; scgi_temp_path {0};\n server {{ listen {address}; location / {{ return 200 \"nginx got $request\\n\"; }} }} }}\n",
        folder.display()
    );
    std::fs::write(&config, text).expect("an nginx configuration");
    let mut command = Command::new("nginx");
    command.args(["-c", path(&config), "-p", path(folder)]);
    let process = Process::start(command, folder.join("nginx.log"));
    wait_for("nginx to listen", || {
        std::net::TcpStream::connect(address).ok()
    });
    (process, address)
}

/// Python's http.server over `folder`/www, which holds `files/a.txt`.
fn http_server(folder: &Path) -> (Process, SocketAddr) {
    let address = free_address();
    let www = folder.join("www");
    std::fs::create_dir_all(www.join("files")).expect("a folder");
    std::fs::write(www.join("files/a.txt"), "hello from a file\n").expect("a file");
    let mut command = python();
    let port = address.port().to_string();
    command.args([
        "-m",
        "http.server",
        &port,
        "--bind",
        "127.0.0.1",
        "--directory",
        path(&www),
    ]);
    let process = Process::start(command, folder.join("http.server.log"));
    wait_for("http.server to listen", || {
        std::net::TcpStream::connect(address).ok()
    });
    (process, address)
}
