use super::host::Host;
use super::network::Network;
use super::{TALK, text};
use crate::harness::{Process, path, wait_for};
use crate::real::outside::certificate;
use std::path::Path;

/// Speaks first on TCP, then echoes; and echoes over UDP where DNS is.
const SERVER: &str = r#"
import socket, socketserver, threading
class Tcp(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 outside\n")
        self.wfile.write(self.rfile.readline())
tcp = socketserver.ThreadingTCPServer(("10.77.0.3", 9025), Tcp)
threading.Thread(target=tcp.serve_forever, daemon=True).start()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("10.77.0.3", 53))
while True:
    data, peer = udp.recvfrom(512)
    udp.sendto(data, peer)
"#;

const ASK_DNS: &str = r#"
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
    asking.settimeout(10)
    asking.connect(("10.77.0.3", 53))
    asking.send(b"question")
    print(asking.recv(512).decode())
"#;

/// nginx on the third host: it says by which name, protocol and client certificate it was reached.
fn nginx(host: &Host, folder: &Path) -> Process {
    let said = "$ssl_server_name $ssl_protocol client=$ssl_client_verify peer=$http_tipstaff_peer host=$http_host";
    let folder_text = folder.display();
    let config = folder.join("nginx.conf");
    let text = format!(
        "daemon off; pid {folder_text}/nginx.pid; error_log stderr;\nevents {{}}\nhttp {{ access_log off; client_body_temp_path {folder_text}; proxy_temp_path {folder_text}; fastcgi_temp_path {folder_text}; uwsgi_temp_path {folder_text}; scgi_temp_path {folder_text};\n\
         ssl_certificate {folder_text}/api.pem; ssl_certificate_key {folder_text}/api.key; ssl_verify_client optional_no_ca; ssl_protocols TLSv1.3;\n\
         server {{ listen 10.77.0.3:443 ssl; location / {{ return 200 \"{said}\\n\"; }} }}\n\
         server {{ listen 10.77.0.3:9443 ssl; ssl_protocols TLSv1.2; location / {{ return 200 \"{said}\\n\"; }} }} }}\n"
    );
    std::fs::write(&config, text).expect("an nginx configuration");
    let mut command = host.command("nginx");
    command.args(["-c", path(&config), "-p", path(folder)]);
    Process::start(command, folder.join("nginx.log"))
}

#[test]
fn what_leaves_the_mesh_goes_where_it_says_and_nowhere_else() {
    let network = Network::with(|folder| {
        certificate(folder, &["api.test"]);
        let roots = folder.join("root.pem");
        let roots = roots.display();
        format!(
            "\x20 external:\n\
             \x20   - {{hosts: [api.test], ports: [443], tls: passthrough, endpoints: [\"10.77.0.3:443\"]}}\n\
             \x20   - {{hosts: [api.test], ports: [443], tls: originate, roots: \"{roots}\", endpoints: [\"10.77.0.3:443\"]}}\n\
             \x20   - {{hosts: [old.api.test], ports: [9443], tls: originate, roots: \"{roots}\", endpoints: [\"10.77.0.3:9443\"]}}\n\
             \x20   - {{destinations: [\"10.77.0.3:9025\"], tls: none}}\n"
        )
    });
    let folder = network.folder.path();
    let (caller, third) = (&network.caller, &network.third);
    let _nginx = nginx(third, folder);
    let mut server = third.command("python3");
    server.args(["-c", SERVER]);
    let _server = Process::start(server, folder.join("outside.log"));
    wait_for("nginx to answer", || {
        let mut curl = third.command("curl");
        let output = curl.args(["-ksf", "https://10.77.0.3/"]).output();
        output.expect("ip runs").status.success().then_some(())
    });

    let roots = folder.join("root.pem");
    let verified = ["--cacert", path(&roots), "--max-time", "20"];
    let get = |name: &str, port: u16, address: &str, url: &str| {
        let resolve = format!("{name}:{port}:{address}");
        caller.curl(&[&verified[..], &["--resolve", &resolve, url]].concat())
    };

    // TLS of the workload: to the name that it asks for, although it was sent elsewhere.
    for address in ["10.77.0.3", "10.77.0.2", "fd77::99"] {
        let answer = get("api.test", 443, address, "https://api.test/");
        let said = text(&answer);
        assert!(
            said.starts_with("api.test TLSv1.3 client=NONE peer= host=api.test\n"),
            "{answer:?}"
        );
    }
    for (name, address, counted) in [
        ("other.test", "10.77.0.3", "other.test:443"),
        ("10.77.0.3", "10.77.0.3", "10.77.0.3:443"),
    ] {
        let answer = get(name, 443, address, &format!("https://{name}/"));
        assert!(!answer.status.success(), "{name}: {answer:?}");
        assert_eq!(caller.refused_destination(counted), 1, "{name}");
    }

    // Each has a line that says where it wanted to go, and why it did not.
    for (host, reason) in [
        ("other.test:443", "unknown_destination"),
        ("10.77.0.3:443", "no_server_name"),
    ] {
        wait_for("the access log", || {
            let log = std::fs::read_to_string(folder.join("caller.log")).ok()?;
            let host = format!("\"host\":\"{host}\"");
            let line = log.lines().find(|line| line.contains(&host))?;
            let reason = format!("\"decision\":\"deny\",\"reason\":\"{reason}\"");
            line.contains(&reason).then_some(())
        });
    }

    // TLS of ours: the workload speaks plain HTTP to the name, whatever its address.
    let answer = get("api.test", 80, "10.77.0.2", "http://api.test/");
    assert_eq!(
        text(&answer),
        "api.test TLSv1.3 client=NONE peer= host=api.test\n200",
        "{answer:?}"
    );
    // To a server that is older, and whose certificate is not for the name.
    let answer = get("old.api.test", 80, "10.77.0.2", "http://old.api.test/");
    assert!(
        text(&answer).contains("certificate_of_another_name") && text(&answer).ends_with("502"),
        "{answer:?}"
    );
    let answer = get("other.test", 80, "10.77.0.3", "http://other.test/");
    assert!(text(&answer).ends_with("403"), "{answer:?}");
    assert_eq!(caller.refused_destination("other.test"), 1);

    // By address, unread.
    let talk = caller.python(TALK, &["10.77.0.3", "9025"]);
    assert_eq!(text(&talk), "220 outside\nhello\n", "{talk:?}");

    // DNS is the one thing over UDP that passes.
    let asked = caller.python(ASK_DNS, &[]);
    assert_eq!(text(&asked), "question\n", "{asked:?}");
}
