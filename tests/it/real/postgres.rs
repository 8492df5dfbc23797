//! PostgreSQL as opaque TCP: psql through two sidecars, over a port and over a Unix socket.

use super::{Session, run_ok, while_rotating};
use crate::harness::{
    Mesh, Options, Process, STRANGER, Sidecar, free_address, grant, path, wait_for,
};
use rustix::process::Signal;
use std::fmt::Write as _;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;

/// The port in the names of Unix sockets, which is all that psql makes of it there.
const SOCKET: &str = ".s.PGSQL.5432";

/// A server in a folder of its own, on a port and on a Unix socket in that folder.
pub(super) struct Postgres {
    process: Process,
    folder: TempDir,
    pub(super) address: SocketAddr,
    settings: Vec<String>,
}

impl Postgres {
    pub(super) fn start() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// The same with the settings that `prepare` gives, once it has put the files they need into the server's folder.
    pub(super) fn start_with(prepare: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let folder = TempDir::new().expect("a folder");
        let data = folder.path().join("data");
        // The server refuses to run as root, and its user has to reach its data.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("a mode");
        let initdb = [
            "-D",
            path(&data),
            "-U",
            "postgres",
            "-A",
            "trust",
            "--no-sync",
        ];
        let output = server_program("initdb").args(initdb).output();
        let output = output.expect("initdb runs");
        assert!(output.status.success(), "{output:?}");
        let (address, settings) = (free_address(), prepare(folder.path()));
        let server = Self {
            process: Self::launch(folder.path(), address, &settings),
            folder,
            address,
            settings,
        };
        server.wait();
        server
    }

    fn launch(folder: &Path, address: SocketAddr, settings: &[String]) -> Process {
        let mut command = server_program("postgres");
        let port = address.port().to_string();
        command.args(["-D", path(&folder.join("data")), "-p", &port]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
        command.args(["-c", "log_connections=on", "-k", path(folder)]);
        for setting in settings {
            command.args(["-c", setting]);
        }
        Process::start(command, folder.join("postgres.log"))
    }

    fn wait(&self) {
        wait_for("PostgreSQL", || {
            let answer = psql("127.0.0.1", self.address.port(), &["-c", "select 1"]);
            answer.status.success().then_some(())
        });
    }

    /// Ends the server, in the middle of whatever its clients do, for so long.
    pub(super) fn restart(&mut self, away: Duration) {
        self.stop();
        std::thread::sleep(away);
        self.start_again();
    }

    pub(super) fn stop(&mut self) {
        self.process.signal(Signal::QUIT);
        self.process.child.wait().expect("it ends");
    }

    pub(super) fn start_again(&mut self) {
        self.process = Self::launch(self.folder.path(), self.address, &self.settings);
        self.wait();
    }

    /// What the server's own socket answers.
    pub(super) fn ask(&self, query: &str) -> String {
        let (folder, port) = (path(self.folder.path()), self.address.port());
        answer(psql(folder, port, &["-c", query]))
    }

    fn socket(&self) -> String {
        let name = format!(".s.PGSQL.{}", self.address.port());
        format!("unix:{}", self.folder.path().join(name).display())
    }

    fn connections(&self) -> usize {
        let log = self.process.log_text();
        log.matches("connection received").count()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once, but not without giving back its shared memory.
        self.process.signal(Signal::QUIT);
        self.process.child.wait().ok();
    }
}

/// One of the server's programs, as a user who may run it.
fn server_program(name: &str) -> Command {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("Debian's PostgreSQL");
    let newest = versions.map(|entry| entry.expect("an entry").path()).max();
    let program = newest.expect("a version").join("bin").join(name);
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    command.arg(program).current_dir("/");
    command
}

/// psql that prints values and nothing else, for so many seconds at most.
pub(super) fn psql_command(host: &str, port: u16, seconds: u32, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args([
        &seconds.to_string(),
        "psql",
        "-XAtq",
        "-v",
        "ON_ERROR_STOP=1",
    ]);
    command.args(["-h", host, "-p", &port.to_string(), "-U", "postgres"]);
    command.args(arguments).env("PGAPPNAME", "psql-of-the-test");
    command
}

fn psql(host: &str, port: u16, arguments: &[&str]) -> Output {
    let output = psql_command(host, port, 60, arguments).output();
    output.expect("psql runs")
}

fn answer(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// As the workload beside a sidecar connects: by the port, and by the folder of its Unix socket.
fn ways(caller: &Sidecar) -> [(String, u16); 2] {
    let folder = caller.tcp_socket.parent().expect("a folder");
    [
        (caller.tcp.ip().to_string(), caller.tcp.port()),
        (path(folder).to_owned(), 5432),
    ]
}

fn options(app: String) -> Options {
    Options {
        app: Some(app),
        policy: grant("uses-the-database", "{tcp: true}", "[]"),
        tcp: Some(SOCKET),
        ..Options::default()
    }
}

/// Some MiB of rows, each another.
fn rows(file: &Path) -> String {
    let mut text = String::new();
    for number in 0..50_000_u64 {
        let noise = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        writeln!(text, "{number}\t{noise:016x}{:048}", noise / 7).expect("memory");
    }
    std::fs::write(file, &text).expect("a file");
    text
}

#[test]
fn psql_queries_and_copies_through_both_sidecars_over_a_port_and_a_unix_socket() {
    let server = Postgres::start();
    let mesh = Mesh::with(&options(server.address.to_string()));
    let files: [PathBuf; 2] = ["in.txt", "out.txt"].map(|name| mesh.folder.path().join(name));
    let sent = rows(&files[0]);
    for (host, port) in ways(&mesh.storefront) {
        let ask = |query: &str| answer(psql(&host, port, &["-c", query]));
        assert_eq!(ask("select 6 * 7"), "42\n", "{host}");
        ask("drop table if exists copied; create table copied (n int primary key, noise text)");
        ask(&format!("\\copy copied from '{}'", path(&files[0])));
        ask(&format!(
            "\\copy (select * from copied order by n) to '{}'",
            path(&files[1])
        ));
        let received = std::fs::read_to_string(&files[1]).expect("a file");
        assert!(received == sent, "{host}: the rows differ");
        let digest = "md5(string_agg(n || E'\\t' || noise || E'\\n', '' order by n))";
        let stored = server.ask(&format!("select {digest} from copied"));
        let expected = run_ok("md5sum", &[path(&files[0])]);
        assert_eq!(stored.trim(), &expected[..32], "{host}");
    }
}

#[test]
fn sessions_rest_for_longer_than_an_http_connection_may_and_then_go_on() {
    let server = Postgres::start();
    // The server is reached by its Unix socket.
    let mesh = Mesh::with(&Options {
        extra: "timeouts: {idle: 1s, response: 1s, requestHead: 1s}\n".to_owned(),
        ..options(server.socket())
    });
    server.ask("create table jobs (name text)");
    let [(host, port), (folder, name)] = ways(&mesh.storefront);

    let mut listener = Session::start(psql_command(&host, port, 60, &[]));
    listener.say("listen jobs; select 'listening';");
    listener.hear("listening");
    let mut writer = Session::start(psql_command(&folder, name, 60, &[]));
    writer.say("begin; insert into jobs values ('held'); select 'begun';");
    writer.hear("begun");

    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(server.ask("select count(*) from jobs"), "0\n");
    writer.say("notify jobs, 'one more'; commit; select 'committed';");
    writer.hear("committed");
    assert_eq!(server.ask("select name from jobs"), "held\n");
    // psql shows what came when it is next told something.
    listener.say("select 'awake';");
    let heard = listener.hear("notification");
    assert!(
        heard.contains("\"jobs\" with payload \"one more\""),
        "{heard}"
    );
}

#[test]
fn a_session_and_its_transaction_outlive_the_certificates_they_began_with() {
    let server = Postgres::start();
    let mesh = Mesh::with(&Options {
        ttl: Duration::from_secs(5),
        ..options(server.address.to_string())
    });
    let (host, port) = &ways(&mesh.storefront)[0];
    let mut session = Session::start(psql_command(host, *port, 60, &[]));
    session.say("begin; create table kept (n int);");
    let mut asked = 0;
    while_rotating(&mesh, 5, || {
        asked += 1;
        session.say(&format!(
            "insert into kept values ({asked}) returning 'row ' || n;"
        ));
        session.hear(&format!("row {asked}"));
    });
    session.say("commit; select 'committed';");
    session.hear("committed");
    assert_eq!(
        server.ask("select count(*) from kept"),
        format!("{asked}\n")
    );
}

#[test]
fn a_caller_without_a_grant_gets_no_connection_to_the_server() {
    let server = Postgres::start();
    let options = options(server.address.to_string());
    let mesh = Mesh::with(&options);
    let stranger = mesh.caller("stranger", STRANGER, &options);
    let before = server.connections();
    for (host, port) in ways(&stranger) {
        let output = psql(&host, port, &["-c", "select 1"]);
        assert_eq!(output.status.code(), Some(2), "{host}: {output:?}");
        assert!(output.stdout.is_empty(), "{host}: {output:?}");
    }
    assert_eq!(server.connections(), before);
    // Only the caller made the difference.
    let (host, port) = &ways(&mesh.storefront)[0];
    assert_eq!(answer(psql(host, *port, &["-c", "select 1"])), "1\n");
    assert_eq!(server.connections(), before + 1);
}

#[test]
fn a_session_ends_when_its_grant_is_withdrawn() {
    let server = Postgres::start();
    let mesh = Mesh::with(&options(server.address.to_string()));
    let (host, port) = &ways(&mesh.storefront)[0];
    let mut session = Session::start(psql_command(host, *port, 60, &[]));
    session.say("begin; create table kept (n int); select 'begun';");
    session.hear("begun");

    mesh.set_policy(&grant(
        "reads-files",
        "{methods: [GET], path: /files}",
        "[]",
    ));
    let open =
        "select count(*) from pg_stat_activity where xact_start is not null and state <> 'active'";
    wait_for("the server to lose the session", || {
        (server.ask(open) == "0\n").then_some(())
    });
    session.say("commit;");
    let (said, status) = session.end();
    assert_eq!(status.code(), Some(2), "{said:?}");
    assert_eq!(server.ask("select to_regclass('kept') is null"), "t\n");
    assert_eq!(
        psql(host, *port, &["-c", "select 1"]).status.code(),
        Some(2)
    );
}
