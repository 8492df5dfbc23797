//! `tipstaff agent`: identities for the processes of a node.

use crate::harness::http::get;
use crate::harness::workload::Workload;
use crate::harness::{Ca, ORDERS, STRANGER, free_address, path, wait_for};
use std::process::Command;
use tempfile::TempDir;

/// What systemd and shells give is 1024, for the sake of programs that use `select`: it was enough for 500 connections.
#[test]
fn a_low_soft_limit_on_open_files_does_not_keep_workloads_out() {
    let folder = TempDir::new().expect("a folder");
    let ca = Ca::start(folder.path());
    let selectors = "selectors: [\"unix:uid:4294967294\"]";
    let entries = [(ORDERS, selectors)];
    let (config, socket) = Workload::configure_agent(folder.path(), &ca, "agent", &entries);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 128; exec \"$0\" agent --config \"$1\""]);
    command.args([env!("CARGO_BIN_EXE_tipstaff"), path(&config)]);
    let agent = Workload::by(command, config.with_extension("log"), socket);
    let [soft, hard] = agent.process.limits_on_open_files();
    assert_eq!(soft, hard);
}

#[test]
fn an_agent_is_ready_once_it_can_hand_out_every_identity_and_says_which_it_cannot() {
    let folder = TempDir::new().expect("a folder");
    let ca = Ca::start(folder.path());
    let selectors = "selectors: [\"unix:uid:4294967294\"]";
    let entries = [(ORDERS, selectors), (STRANGER, selectors)];
    let (config, socket) = Workload::configure_agent(folder.path(), &ca, "agent", &entries);
    let mut text = std::fs::read_to_string(&config).expect("a configuration");
    let admin = free_address();
    text += &format!("admin: {{listen: \"{admin}\"}}\n");
    std::fs::write(&config, text).expect("a configuration");
    // The second identity has nothing to begin with.
    let token = folder.path().join("agent.1.token");
    let kept = std::fs::read(&token).expect("a token");
    std::fs::remove_file(&token).expect("a token");
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tipstaff"));
        command.args(["agent", "--config", path(&config)]);
        Workload::by(command, config.with_extension("log"), socket.clone())
    };
    let agent = start();
    let refused = wait_for("one identity to be refused", || {
        let reply = get(admin, "/ready")?;
        let is_alone = !reply.body.contains(ORDERS);
        (is_alone && reply.body.contains("failing since")).then_some(reply)
    });
    assert_eq!(refused.status, 503);
    assert!(refused.body.contains(STRANGER), "{}", refused.body);
    let metrics = get(admin, "/metrics").expect("metrics").body;
    for line in ["{state=\"valid\"} 1\n", "{state=\"missing\"} 1\n"] {
        assert!(metrics.contains(line), "{line:?} in {metrics}");
    }
    drop(agent);

    std::fs::write(&token, kept).expect("a token");
    let _agent = start();
    wait_for("the agent to be ready", || {
        get(admin, "/ready").filter(|reply| reply.status == 200)
    });
}
