//! A host of its own: what runs on it, and what its sidecar says.

use super::text;
use crate::harness::wait_for;
use crate::real::{run, run_ok};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The workload's user, in the namespaces whose sidecars run as root.
pub(super) const NOBODY: &str = "65534";

/// A network namespace; removed with everything in it.
pub(super) struct Host(String);

impl Host {
    pub(super) fn start(name: &str) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let host = Self(format!("tipstaff-{}-{number}-{name}", std::process::id()));
        run_ok("ip", &["netns", "add", &host.0]);
        host.ip("link set lo up");
        host
    }

    pub(super) fn ip(&self, arguments: &str) {
        let mut all = vec!["-n", &self.0];
        all.extend(arguments.split(' '));
        run_ok("ip", &all);
    }

    /// The host's one interface, on the bridge of `switch`.
    pub(super) fn connect(&self, number: u8, switch: &Self) {
        let port = format!("port{number}");
        switch.ip(&format!(
            "link add {port} type veth peer name eth0 netns {}",
            self.0
        ));
        switch.ip(&format!("link set {port} master eth0 up"));
        self.address(number);
    }

    pub(super) fn address(&self, number: u8) {
        self.ip(&format!("addr add 10.77.0.{number}/24 dev eth0"));
        self.ip(&format!("addr add fd77::{number}/64 dev eth0 nodad"));
        self.ip("link set eth0 up");
    }

    /// A program on this host, as root.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    pub(super) fn tipstaff(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(env!("CARGO_BIN_EXE_tipstaff"));
        command.args(arguments).output().expect("ip runs")
    }

    pub(super) fn redirect(&self, proxy_uid: &str) {
        let output = self.tipstaff(&["redirect", "install", "--proxy-uid", proxy_uid]);
        assert!(output.status.success(), "{output:?}");
    }

    /// Waits until a server on this host answers well.
    pub(super) fn wait_for(&self, url: &str) {
        wait_for(url, || {
            let mut curl = self.command("curl");
            let output = curl.args(["-sf", url]).output().expect("ip runs");
            output.status.success().then_some(())
        });
    }

    /// Waits until the sidecar says that nothing is led to it.
    pub(super) fn wait_until_unready(&self) {
        wait_for("a missing interception to show", || {
            let mut curl = self.command("curl");
            let output = curl.args(["-sS", "-w", "%{http_code}", "http://127.0.0.1:15000/ready"]);
            let said = text(&output.output().expect("ip runs"));
            (said.ends_with("503") && said.contains("run tipstaff redirect install")).then_some(())
        });
    }

    /// A program of the workload, which may take its time but not for ever.
    pub(super) fn workload(&self, program: &str, arguments: &[&str]) -> Output {
        let user = ["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"];
        let mut command = self.command("setpriv");
        command.args(user).args(["timeout", "30", program]);
        command.args(arguments).output().expect("ip runs")
    }

    pub(super) fn curl(&self, arguments: &[&str]) -> Output {
        let common = ["-sS", "-g", "--noproxy", "*", "-w", "%{http_code}"];
        self.workload("curl", &[&common[..], arguments].concat())
    }

    pub(super) fn python(&self, script: &str, arguments: &[&str]) -> Output {
        let all = [&["-c", script][..], arguments].concat();
        self.workload("python3", &all)
    }

    /// The value of the series of this host's sidecar that begins like this; 0 if there is none.
    pub(super) fn counted(&self, series: &str) -> u64 {
        let mut command = self.command("curl");
        let output = command
            .args(["-sS", "http://127.0.0.1:15000/metrics"])
            .output();
        let text = String::from_utf8(output.expect("ip runs").stdout).expect("text");
        let mut values = text.lines().filter_map(|line| line.strip_prefix(series));
        let value = values.next().map(|value| value.trim().parse());
        value.map_or(0, |value| value.expect("a number"))
    }

    pub(super) fn refused(&self, direction: &str, reason: &str) -> u64 {
        self.counted(&format!(
            "tipstaff_refused_connections_total{{direction=\"{direction}\",reason=\"{reason}\"}}"
        ))
    }

    pub(super) fn refused_destination(&self, destination: &str) -> u64 {
        self.counted(&format!(
            "tipstaff_refused_destinations_total{{destination=\"{destination}\"}}"
        ))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        run("ip", &["netns", "delete", &self.0]);
    }
}
