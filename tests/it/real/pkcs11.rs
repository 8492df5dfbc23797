//! The CA's keys in a PKCS#11 token: SoftHSM2 holds them, OpenSC's pkcs11-tool looks and meddles.

use super::linters::judge;
use super::run_ok;
use crate::harness::http::get;
use crate::harness::{Ca, Mesh, Options, Process, STOREFRONT, free_address, path, wait_for};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "48151623";

/// A token, and the configuration of a CA whose keys are in it.
pub(super) struct Hsm {
    pub(super) folder: TempDir,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Hsm {
    pub(super) fn new() -> Self {
        let hsm = Self {
            folder: TempDir::new().expect("a folder"),
            listen: free_address(),
            admin: free_address(),
        };
        std::fs::create_dir(hsm.tokens()).expect("a folder for tokens");
        let softhsm = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            hsm.tokens().display()
        );
        std::fs::write(hsm.file("softhsm2.conf"), softhsm).expect("a file");
        std::fs::write(hsm.file("pin"), format!("{PIN}\n")).expect("a file");
        let config = format!(
            "dir: {0}/ca\nlisten: {1}\nadmin: {{listen: {2}}}\nallowShortTtlForTests: true\n\
             keys: {{pkcs11: {{module: {MODULE}, token: ca-hsm, pinFile: {0}/pin}}}}\n",
            hsm.folder.path().display(),
            hsm.listen,
            hsm.admin,
        );
        std::fs::write(hsm.file("ca.yaml"), config).expect("a file");
        hsm.ok(
            "softhsm2-util",
            &[
                "--init-token",
                "--free",
                "--label",
                "ca-hsm",
                "--so-pin",
                "87654321",
                "--pin",
                PIN,
            ],
        );
        hsm
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tokens(&self) -> PathBuf {
        self.file("tokens")
    }

    fn with_token(&self, mut command: Command) -> Command {
        command.env("SOFTHSM2_CONF", self.file("softhsm2.conf"));
        command
    }

    pub(super) fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = self.with_token(Command::new(program));
        command.args(arguments).output().expect("it runs")
    }

    fn ok(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {output:?}"
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `tipstaff ca COMMAND --config ca.yaml ...`
    pub(super) fn ca(&self, command: &str, more: &[&str]) -> Output {
        let config = self.file("ca.yaml");
        let fixed = ["ca", command, "--config", path(&config)];
        self.run(env!("CARGO_BIN_EXE_tipstaff"), &[&fixed[..], more].concat())
    }

    pub(super) fn init(&self) {
        let output = self.ca("init", &["--trust-domain", "test.example"]);
        assert!(output.status.success(), "{output:?}");
    }

    pub(super) fn serve(&self) -> Process {
        let mut command = self.with_token(Command::new(env!("CARGO_BIN_EXE_tipstaff")));
        command.args(["ca", "serve", "--config", path(&self.file("ca.yaml"))]);
        let process = Process::start(command, self.file("ca.log"));
        wait_for("the CA to say how it is", || get(self.admin, "/ready"));
        process
    }

    pub(super) fn ready(&self) -> (u16, String) {
        let reply = get(self.admin, "/ready").expect("the CA's admin port answers");
        (reply.status, reply.body)
    }

    /// pkcs11-tool, logged in.
    pub(super) fn tool(&self, arguments: &[&str]) -> String {
        let login = ["--module", MODULE, "--token-label", "ca-hsm", "--login"];
        let pin = ["--pin", PIN];
        self.ok("pkcs11-tool", &[&login[..], &pin, arguments].concat())
    }

    /// The `CKA_ID` in the key file of the intermediate.
    pub(super) fn key_id(&self) -> String {
        let text = std::fs::read_to_string(self.file("ca/intermediate.key")).expect("a key file");
        let line = text.lines().find_map(|line| line.strip_prefix("object: "));
        line.expect("the object").to_owned()
    }

    /// Puts another key in the place of the intermediate's.
    fn replace_key(&self) {
        let id = self.key_id();
        for kind in ["privkey", "pubkey"] {
            self.tool(&["--delete-object", "--type", kind, "--id", &id]);
        }
        self.tool(&["--keypairgen", "--key-type", "EC:prime256v1", "--id", &id]);
    }
}

pub(super) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A CSR by openssl.
pub(super) fn request(folder: &Path) -> PathBuf {
    let (key, csr) = (folder.join("bob.key"), folder.join("bob.csr"));
    let kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let rest = [
        "-nodes",
        "-subj",
        "/",
        "-keyout",
        path(&key),
        "-out",
        path(&csr),
    ];
    run_ok("openssl", &[&["req", "-new"], &kind[..], &rest].concat());
    csr
}

#[test]
fn a_ca_with_keys_in_a_token_issues_and_renews_and_outlives_the_tokens_absence() {
    let hsm = Hsm::new();
    hsm.init();
    let listed = hsm.tool(&["--list-objects", "--type", "privkey"]);
    for name in [
        "tipstaff root test.example",
        "tipstaff intermediate test.example",
    ] {
        assert!(listed.contains(name), "{listed}");
    }
    assert_eq!(listed.matches("never extractable").count(), 2, "{listed}");

    let process = hsm.serve();
    let (listen, dir) = (hsm.listen, hsm.file("ca"));
    let folder = TempDir::new().expect("a folder");
    let options = Options {
        ttl: Duration::from_secs(6),
        ..Options::default()
    };
    let mesh = Mesh::under(Ca::of(dir, listen, process), folder, &options);
    let renewed = |since: &str| {
        let since = since.to_owned();
        wait_for("a renewal", || {
            let serial = mesh.storefront.serial();
            (serial != since).then_some(serial)
        })
    };
    let serial = renewed(&mesh.storefront.serial());

    assert_eq!(hsm.ready(), (200, "ok\n".to_owned()));

    // The token is taken away, for longer than a certificate lives, and put back.
    let away = hsm.file("tokens.away");
    std::fs::rename(hsm.tokens(), &away).expect("taking the token away");
    wait_for("the sidecar to run out of its identity", || {
        (!mesh.storefront.ready()).then_some(())
    });
    let (status, reason) = hsm.ready();
    assert_eq!(status, 503);
    assert!(
        reason.contains("the token \"ca-hsm\" cannot be used"),
        "{reason}"
    );
    std::fs::rename(&away, hsm.tokens()).expect("putting the token back");
    wait_for("the sidecar to have an identity again", || {
        mesh.storefront.ready().then_some(())
    });
    renewed(&serial);
    wait_for("the CA to be ready", || {
        (hsm.ready().0 == 200).then_some(())
    });
    let log = std::fs::read_to_string(hsm.file("ca.log")).expect("a log");
    assert!(!log.contains(PIN), "the PIN is in the log");
}

#[test]
fn a_ca_whose_key_is_replaced_in_the_token_while_it_serves_is_not_ready() {
    let hsm = Hsm::new();
    hsm.init();
    let _process = hsm.serve();
    assert_eq!(hsm.ready().0, 200);
    hsm.replace_key();
    let reason = wait_for("the CA not to be ready", || {
        let (status, reason) = hsm.ready();
        (status == 503).then_some(reason)
    });
    assert!(
        reason.contains("the key that signs is another than the one expected"),
        "{reason}"
    );
}

#[test]
fn a_wrong_pin_is_tried_once_and_not_shown() {
    let hsm = Hsm::new();
    hsm.init();
    std::fs::write(hsm.file("pin"), "11112222").expect("a file");
    let output = hsm.ca("serve", &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let error = said(&output);
    assert!(
        error.contains("the PIN of token \"ca-hsm\" is refused"),
        "{error}"
    );
    assert!(!error.contains("11112222"), "{error}");
}

#[test]
fn a_token_that_is_not_there_is_named() {
    let hsm = Hsm::new();
    hsm.init();
    let config = std::fs::read_to_string(hsm.file("ca.yaml")).expect("a file");
    let other = config.replace("token: ca-hsm", "token: other");
    std::fs::write(hsm.file("ca.yaml"), other).expect("a file");
    let output = hsm.ca("serve", &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let error = said(&output);
    assert!(
        error.contains("the token \"other\" cannot be used"),
        "{error}"
    );
}

#[test]
fn a_ca_whose_key_was_replaced_in_the_token_does_not_start() {
    let hsm = Hsm::new();
    hsm.init();
    hsm.replace_key();
    let output = hsm.ca("serve", &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let error = said(&output);
    assert!(
        error.contains("the key that signs is another than the one expected"),
        "{error}"
    );
}

#[test]
fn a_key_file_that_names_another_key_of_the_token_does_not_pass_for_the_certificates() {
    let hsm = Hsm::new();
    hsm.init();
    let root = std::fs::read_to_string(hsm.file("ca/root.key")).expect("a key file");
    let posing = root.replace("label: root", "label: intermediate");
    std::fs::write(hsm.file("ca/intermediate.key"), posing).expect("a key file");
    let output = hsm.ca("serve", &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(said(&output).contains("found another key"), "{output:?}");
}

#[test]
fn a_key_that_is_in_the_token_already_is_taken_unless_it_can_leave() {
    let hsm = Hsm::new();
    let make = ["--keypairgen", "--key-type", "EC:prime256v1", "--id"];
    hsm.tool(&[&make[..], &["c0ffee", "--label", "ours"]].concat());
    hsm.tool(&[&make[..], &["0bad", "--label", "leaky", "--extractable"]].concat());

    let arguments = ["--trust-domain", "test.example", "--existing-key"];
    let refused = hsm.ca("init", &[&arguments[..], &["leaky"]].concat());
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(
        said(&refused).contains("marked as not extractable"),
        "{refused:?}"
    );
    assert!(!hsm.file("ca").exists(), "a failed init leaves nothing");

    let taken = hsm.ca("init", &[&arguments[..], &["ours"]].concat());
    assert!(taken.status.success(), "{taken:?}");
    assert_eq!(hsm.key_id(), "c0ffee");
    let csr = request(hsm.folder.path());
    let issued = hsm.ca("issue", &["--id", STOREFRONT, "--csr", path(&csr)]);
    assert!(issued.status.success(), "{issued:?}");
    // The token's signatures are as good as any.
    let chain = hsm.file("bob.pem");
    std::fs::write(&chain, issued.stdout).expect("a file");
    let root = hsm.file("ca/ca-bundle.pem");
    judge(hsm.folder.path(), &root, &chain, &[]);
}
