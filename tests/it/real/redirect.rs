//! Transparent interception, by the kernel's nftables: three hosts, each a network namespace, on one bridge. The caller's and
//! the app's have a sidecar and its rules; the third has the CA, and nothing that speaks mutual TLS. Needs root.

mod external; // Out of the mesh, by name and by address.
mod host;
mod network;

use crate::harness::{Process, STOREFRONT, wait_for};
use network::{Network, proxy};
use std::process::Output;

/// Prints what the server says, and what it says to a line.
const TALK: &str = r#"
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as server:
    lines = server.makefile("rw")
    print(lines.readline(), end="")
    print("hello", file=lines, flush=True)
    print(lines.readline(), end="")
"#;

/// Ends well only if the kernel refuses to send.
const SEND_UDP: &str = r#"
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as sender:
    sender.settimeout(5)
    sender.connect((sys.argv[1], 9999))
    try:
        sender.send(b"x")
        sender.recv(1)
    except (PermissionError, ConnectionRefusedError):
        sys.exit(0)
sys.exit("it was sent")
"#;

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Nobody in it knows of a sidecar.
#[test]
fn unchanged_programs_reach_each_other_through_both_sidecars_and_nothing_else() {
    let network = Network::start();
    let Network {
        caller,
        orders,
        third,
        ..
    } = &network;

    // HTTP and a server that speaks first, over both families.
    for (name, address) in [("orders", "10.77.0.2"), ("orders6", "[fd77::2]")] {
        let resolve = format!("{name}:8080:{address}");
        let url = format!("http://{name}:8080/api/v1/orders/42");
        let answer = caller.curl(&["--resolve", &resolve, &url]);
        let said = text(&answer);
        assert!(
            said.contains("GET /api/v1/orders/42 HTTP/1.1") && said.ends_with("200"),
            "{answer:?}"
        );
        assert!(
            said.to_lowercase()
                .contains(&format!("tipstaff-peer: {STOREFRONT}")),
            "{said}"
        );
        let denied = caller.curl(&["--resolve", &resolve, "-X", "DELETE", &url]);
        assert!(text(&denied).ends_with("403"), "{denied:?}");

        let bare = address.trim_matches(['[', ']']);
        let talk = caller.python(TALK, &[bare, "9000"]);
        assert_eq!(text(&talk), "220 at your service\nhello\n", "{talk:?}");
    }

    // No plain text from who has no sidecar, by the app's port or by the sidecar's own.
    for url in [
        "http://10.77.0.2:8080/api/v1/orders/42",
        "http://[fd77::2]:8080/api/v1/orders/42",
        "https://10.77.0.2:15006/",
    ] {
        let answer = third.curl(&["-k", "--max-time", "20", url]);
        assert!(
            !answer.status.success() && text(&answer).ends_with("000"),
            "{url}: {answer:?}"
        );
    }
    assert_eq!(orders.refused("inbound", "not_redirected"), 1);

    // Where nobody listed, nothing goes: by host for HTTP, by address for the rest.
    let unlisted = caller.curl(&["http://10.77.0.3:8443/"]);
    assert!(!text(&unlisted).ends_with("200"), "{unlisted:?}");
    let tls = caller.curl(&["-k", "https://[fd77::3]:8443/"]);
    assert!(!tls.status.success(), "{tls:?}");
    assert_eq!(caller.refused_destination("10.77.0.3:8443"), 1);
    assert_eq!(caller.refused_destination("[fd77::3]:8443"), 1);
    for address in ["10.77.0.3", "fd77::3"] {
        let sent = caller.python(SEND_UDP, &[address]);
        assert!(sent.status.success(), "{address}: {sent:?}");
    }

    // The sidecar's own ports, in every spelling, lead nowhere.
    let own = ["127.0.0.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]"];
    for address in own {
        let answer = caller.curl(&[&format!("http://{address}:15001/")]);
        assert!(!answer.status.success(), "{address}: {answer:?}");
    }
    assert_eq!(
        caller.refused("outbound", "not_redirected"),
        own.len() as u64
    );
    for address in ["10.77.0.2", "[fd77::2]", "127.0.0.1"] {
        let answer = orders.curl(&[&format!("http://{address}:15006/")]);
        assert!(!answer.status.success(), "{address}: {answer:?}");
    }
    assert_eq!(orders.refused("inbound", "not_redirected"), 4);

    // Rules that name another user send the sidecar's own connections back to it, once.
    caller.redirect("12345");
    let looped = caller.curl(&["--resolve", "later:8081:10.77.0.2", "http://later:8081/"]);
    assert!(text(&looped).ends_with("502"), "{looped:?}");
    assert!(
        caller.refused("outbound", "not_the_workload") <= 3,
        "it goes round"
    );
    assert_ne!(caller.refused("outbound", "not_the_workload"), 0);

    // Removed, nothing is led anywhere; removed again, there is nothing to do.
    for host in [caller, orders] {
        for _ in 0..2 {
            assert!(host.tipstaff(&["redirect", "remove"]).status.success());
        }
    }
    for host in [caller, orders] {
        host.wait_until_unready();
    }
    // And back: nothing has to be started again.
    orders.redirect("0");
    orders.wait_for("http://127.0.0.1:15000/ready");
    assert!(orders.tipstaff(&["redirect", "remove"]).status.success());
    let rules = caller.command("nft").args(["list", "ruleset"]).output();
    assert_eq!(text(&rules.expect("ip runs")), "");
}

/// What leads to the process before it proves nothing of the new one, and does not keep it waiting either.
#[test]
fn a_process_that_takes_over_under_redirection_is_ready_and_led_to() {
    let network = Network::start();
    let (caller, folder) = (&network.caller, network.folder.path());
    let resolve = "orders:8080:10.77.0.2";
    let calls = || {
        let url = "http://orders:8080/api/v1/orders/42";
        let answer = caller.curl(&["--resolve", resolve, url]);
        assert!(text(&answer).ends_with("200"), "{answer:?}");
    };
    calls();
    let mut command = proxy(caller, &folder.join("caller.yaml"));
    command.arg("--upgrade");
    let heir = Process::start(command, folder.join("heir.log"));
    wait_for("the new process to have taken over", || {
        heir.log_text().contains("taken over from").then_some(())
    });
    let ready = "http://127.0.0.1:15000/ready";
    let mut asked = caller.command("curl");
    let answer = asked.args(["-sS", "-w", "%{http_code}", ready]).output();
    let answer = text(&answer.expect("ip runs"));
    assert!(answer.ends_with("200"), "{answer}");
    calls();
    // It sees for itself when the rules are gone, and when they are back.
    assert!(caller.tipstaff(&["redirect", "remove"]).status.success());
    caller.wait_until_unready();
    caller.redirect("0");
    caller.wait_for(ready);
    calls();
}
