//! The reference for a Docker daemon's socket (deploy/docker-socket), before a stand-in that speaks the daemon's paths.

use super::{Session, python, run_ok};
use crate::harness::{
    Mesh, ORDERS, Options, PATIENCE, Process, STOREFRONT, Sidecar, http, path, tipstaff_ok,
    wait_for,
};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/docker-socket");
const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/it/real/docker_daemon.py"
);
const OPERATOR: &str = "spiffe://test.example/ns/shop/sa/operator";
const ATTACH: &str = "POST /v1.47/containers/web/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nhost: orders\r\n\
     content-type: text/plain\r\nconnection: Upgrade\r\nupgrade: tcp\r\ncontent-length: 0\r\n\r\n";

/// A file of the reference, spoken to the names that the harness gives.
fn reference(file: &str) -> String {
    let text = std::fs::read_to_string(Path::new(DEPLOY).join(file)).expect("a file of deploy/");
    text.replace("spiffe://demo.test/ns/hosts/sa/docker", ORDERS)
        .replace("spiffe://demo.test/ns/hosts/sa/dashboard", STOREFRONT)
        .replace("spiffe://demo.test/ns/hosts/sa/operator", OPERATOR)
        .replace("namespace: hosts", "namespace: shop")
}

/// A daemon, and the two sidecars of the reference before it.
struct Setting {
    daemon: Process,
    socket: PathBuf,
    mesh: Mesh,
    options: Options,
    _folder: TempDir,
}

impl Setting {
    /// With the policy in these files.
    fn new(files: &[&str]) -> Self {
        let folder = TempDir::new().expect("a folder");
        let socket = folder.path().join("docker.sock");
        let mut command = python();
        command.args([SCRIPT, path(&socket)]);
        let daemon = Process::start(command, folder.path().join("daemon.log"));
        wait_for("the daemon", || UnixStream::connect(&socket).ok());
        let policy: Vec<_> = files.iter().map(|file| reference(file)).collect();
        let sidecar = reference("sidecar.yaml");
        let (_, timeouts) = sidecar.split_once("\ntimeouts:").expect("timeouts");
        let options = Options {
            app: Some(format!("unix:{}", socket.display())),
            policy: policy.join("---\n"),
            extra: format!("timeouts:{timeouts}"),
            ..Options::default()
        };
        let mesh = Mesh::with(&options);
        Self {
            daemon,
            socket,
            mesh,
            options,
            _folder: folder,
        }
    }

    fn read_only() -> Self {
        Self::new(&["policy/read-only.yaml"])
    }

    /// Attached to the container by the daemon's own socket, past the sidecars.
    fn at_the_socket(&self) -> Attached<UnixStream> {
        let stream = UnixStream::connect(&self.socket).expect("the daemon");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Attached::new(stream)
    }

    fn curl(&self, arguments: &[&str]) -> String {
        let caller = &self.mesh.storefront;
        let mut command = vec![
            "-sS",
            "--path-as-is",
            "-H",
            "Host: orders",
            "-w",
            "%{http_code}",
        ];
        let (target, more) = arguments.split_last().expect("a target");
        let url = format!("http://{}{target}", caller.outbound);
        command.extend(more);
        command.push(&url);
        run_ok("curl", &command)
    }
}

/// A raw stream of the container's.
struct Attached<S> {
    stream: BufReader<S>,
    head: String,
}

impl<S: Read + Write> Attached<S> {
    fn new(mut stream: S) -> Self {
        stream.write_all(ATTACH.as_bytes()).expect("writing");
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(stream.read_line(&mut head).expect("reading"), 0, "{head:?}");
        }
        Self { stream, head }
    }

    fn types(&mut self, line: &str) {
        writeln!(self.stream.get_mut(), "{line}").expect("writing");
    }

    /// The next line that the container prints.
    fn sees(&mut self) -> String {
        let mut frame = [0; 8];
        self.stream.read_exact(&mut frame).expect("a frame");
        assert_eq!(frame[..4], [1, 0, 0, 0]);
        let mut line = vec![0; usize::from(frame[7])];
        self.stream.read_exact(&mut line).expect("a line");
        String::from_utf8(line).expect("text")
    }
}

fn attach(caller: &Sidecar) -> Attached<TcpStream> {
    Attached::new(http::connect(caller.outbound))
}

#[test]
fn the_reference_loads_and_its_tests_pass_with_and_without_attach() {
    for config in ["sidecar.yaml", "caller.yaml"] {
        let mut check = Command::new(env!("CARGO_BIN_EXE_tipstaff"));
        check.args(["check", "--config", config]);
        let output = check.current_dir(DEPLOY).output();
        let output = output.expect("the binary runs");
        assert!(output.status.success(), "{output:?}");
    }
    let folder = TempDir::new().expect("a folder");
    for file in ["policy/read-only.yaml", "attach.yaml"] {
        let name = Path::new(file).file_name().expect("a name");
        let from = Path::new(DEPLOY).join(file);
        std::fs::copy(from, folder.path().join(name)).expect("a copy");
        let said = tipstaff_ok(&["policy", "check", path(folder.path())]);
        assert!(said.contains("no problems"), "{file}: {said}");
        let said = tipstaff_ok(&["policy", "test", path(folder.path())]);
        assert!(said.contains(" passed, 0 failed"), "{file}: {said}");
    }
}

#[test]
fn what_only_looks_passes_and_nothing_else_reaches_the_daemon() {
    let setting = Setting::read_only();
    for (target, part) in [
        ("/_ping", "OK200"),
        ("/version", "\"ApiVersion\": \"1.47\""),
        ("/v1.47/version", "\"ApiVersion\": \"1.47\""),
        ("/v1.43/info", "stand-in"),
        ("/v1.47/containers/json?all=1", "\"/web\""),
        ("/v1.47/containers/web/json", "\"Tty\": false"),
        ("/v1.47/containers/web/stats?stream=0", "memory_stats"),
        ("/v1.47/images/json", "nginx:latest"),
    ] {
        let said = setting.curl(&[target]);
        assert!(
            said.contains(part) && said.ends_with("200"),
            "{target}: {said}"
        );
    }
    let said = setting.curl(&["-I", "/_ping"]);
    assert!(
        said.contains("content-length: 2") || said.contains("Content-Length: 2"),
        "{said}"
    );

    let before = setting.daemon.log_text();
    for (method, target, status) in [
        ("POST", "/v1.47/containers/create", "403"),
        ("POST", "/containers/create", "403"),
        ("POST", "/v1.47/containers/web/exec", "403"),
        ("POST", "/v1.47/containers/web/start", "403"),
        ("POST", "/v1.47/containers/web/kill?signal=KILL", "403"),
        ("POST", "/v1.47/containers/web/attach", "403"),
        ("DELETE", "/v1.47/containers/web", "403"),
        (
            "GET",
            "/v1.47/containers/web/archive?path=/etc/passwd",
            "403",
        ),
        ("PUT", "/v1.47/containers/web/archive?path=/", "403"),
        ("GET", "/v1.47/containers/web/export", "403"),
        ("GET", "/v1.47/secrets", "403"),
        ("GET", "/distribution/containers/web/json", "403"),
        ("GET", "/v1.47/containers/web/../../containers/json", "400"),
        ("GET", "/v1.47/containers/web%2Fexport/json", "400"),
        ("GET", "//v1.47/containers/json", "400"),
    ] {
        let said = setting.curl(&["-X", method, target]);
        assert!(said.ends_with(status), "{method} {target}: {said}");
    }
    // The profile that takes `Upgrade: tcp` is not there.
    let refused = attach(&setting.mesh.storefront);
    assert!(
        refused.head.starts_with("HTTP/1.1 400 "),
        "{}",
        refused.head
    );
    assert_eq!(setting.daemon.log_text(), before);
}

#[test]
fn each_line_of_a_followed_log_arrives_while_the_stream_is_open() {
    let setting = Setting::read_only();
    let mut container = setting.at_the_socket();
    let mut follow = Command::new("curl");
    let url = format!(
        "http://{}/v1.47/containers/web/logs?follow=1&stdout=1",
        setting.mesh.storefront.outbound
    );
    follow.args(["-sSN", "-H", "Host: orders", &url]);
    let follower = Session::start(follow);
    for number in 0..50 {
        // The next is printed only when this one has arrived.
        let line = format!("line {number}.");
        container.types(&line);
        follower.hear(&line);
    }
}

#[test]
fn who_may_attach_types_and_sees_until_either_side_or_the_grant_ends() {
    let setting = Setting::new(&["policy/read-only.yaml", "attach.yaml"]);
    let operator = setting.mesh.caller("operator", OPERATOR, &setting.options);

    let mut attached = attach(&operator);
    let head = attached.head.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("upgrade: tcp\r\n"), "{head}");
    for line in ["hello", "again"] {
        attached.types(line);
        assert_eq!(attached.sees(), format!("{line}\n"));
    }
    // Our end is the container's end of input; what it prints then still arrives.
    let stream = attached.stream.get_ref();
    stream.shutdown(Shutdown::Write).expect("a half-close");
    assert_eq!(attached.sees(), "bye\n");
    let mut rest = Vec::new();
    attached.stream.read_to_end(&mut rest).expect("an end");
    assert!(rest.is_empty(), "{rest:?}");

    // Looking is no attaching.
    let refused = attach(&setting.mesh.storefront);
    assert!(
        refused.head.starts_with("HTTP/1.1 403 "),
        "{}",
        refused.head
    );

    let mut attached = attach(&operator);
    attached.types("still here");
    assert_eq!(attached.sees(), "still here\n");
    setting.mesh.set_policy(&reference("policy/read-only.yaml"));
    // However it ends: what is read after the withdrawal is an end.
    let ended = attached.stream.read_to_end(&mut rest);
    assert!(ended.is_err() || rest.is_empty(), "{rest:?}");
}
