use super::{REQUEST, ends_well};
use crate::harness::load::Load;
use crate::harness::{Mesh, Process, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// A process that another has started; killed at the end.
struct Grandchild(Pid);

impl Drop for Grandchild {
    fn drop(&mut self) {
        kill_process(self.0, Signal::KILL).ok();
    }
}

#[test]
fn sigusr2_starts_what_is_at_the_path_of_the_binary_by_then() {
    let mut mesh = Mesh::start();
    let folder = mesh.folder.path();
    let (program, marker) = (folder.join("tipstaff"), folder.join("marker"));
    let real = env!("CARGO_BIN_EXE_tipstaff");
    std::os::unix::fs::symlink(real, &program).expect("a link");
    let mut command = Command::new(&program);
    command.args(["proxy", "--upgrade", "--config"]);
    command.arg(&mesh.orders.config);
    let linked = Process::start(command, folder.join("linked.log"));
    wait_for("the linked binary to have taken over", || {
        linked.log_text().contains("taken over").then_some(())
    });
    ends_well(std::mem::replace(&mut mesh.orders.process, linked));

    let script = format!(
        "#!/bin/sh\necho \"$@\" > {}\nexec {real} \"$@\"\n",
        marker.display()
    );
    let beside = folder.join("new");
    std::fs::write(&beside, script).expect("a script");
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    std::fs::rename(&beside, &program).expect("the new binary in place");

    let load = Load::start(mesh.storefront.outbound, REQUEST, 200);
    mesh.orders.process.signal(Signal::USR2);
    let pid = wait_for("the process to say whom it started", || {
        let log = mesh.orders.process.log_text();
        let line = log.lines().find(|line| line.contains("SIGUSR2"))?;
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let pid = line.pointer("/pid").or(line.pointer("/fields/pid"))?;
        Pid::from_raw(i32::try_from(pid.as_i64()?).ok()?)
    });
    let _grandchild = Grandchild(pid);
    let status = wait_for("the old process to end", || {
        mesh.orders.process.child.try_wait().expect("our child")
    });
    assert!(status.success(), "{status}");
    let tally = load.stop();
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert_eq!(mesh.storefront.call("GET", "/api/v1/orders/1").status, 200);
    let said = std::fs::read_to_string(marker).expect("the script ran");
    let config = mesh.orders.config.display();
    assert_eq!(said, format!("proxy --config {config} --upgrade\n"));
}
