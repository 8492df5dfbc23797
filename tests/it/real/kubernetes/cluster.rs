//! A real kube-apiserver with etcd behind it, which `tests/kubernetes/build` has made, on loopback.

use crate::harness::{Process, free_address, path, wait_for};
use crate::real::{run, run_ok};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) const ISSUER: &str = "https://kubernetes.default.svc";

/// Ends with this. No controllers run: pods are objects, and nothing makes them run.
pub(super) struct Cluster {
    folder: PathBuf,
    address: SocketAddr,
    _processes: [Process; 2],
}

impl Cluster {
    pub(super) fn start(folder: &Path) -> Self {
        let programs = std::env::var("TIPSTAFF_TEST_KUBERNETES").expect(
            "TIPSTAFF_TEST_KUBERNETES: run these tests through tests/run, which builds the API server",
        );
        let programs = Path::new(&programs);
        let [etcd, peers, address] = [free_address(), free_address(), free_address()];
        certificates(folder);
        let etcd_url = format!("http://{etcd}");
        let mut command = Command::new(programs.join("etcd"));
        command.args([
            "--data-dir",
            path(&folder.join("etcd")),
            "--unsafe-no-fsync",
        ]);
        for name in ["--listen-client-urls", "--advertise-client-urls"] {
            command.args([name, &etcd_url]);
        }
        let peers = format!("http://{peers}");
        for name in ["--listen-peer-urls", "--initial-advertise-peer-urls"] {
            command.args([name, &peers]);
        }
        command.args(["--initial-cluster", &format!("default={peers}")]);
        let etcd = Process::start(command, folder.join("etcd.log"));

        let file = |name: &str| folder.join(name).display().to_string();
        let mut command = Command::new(programs.join("kube-apiserver"));
        command.args([
            format!("--etcd-servers={etcd_url}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", address.port()),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--service-account-issuer={ISSUER}"),
            format!(
                "--service-account-signing-key-file={}",
                file("accounts.key")
            ),
            format!("--service-account-key-file={}", file("accounts.pub")),
            format!("--api-audiences={ISSUER}"),
            "--authorization-mode=RBAC".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--external-hostname=localhost".to_owned(),
            format!("--cert-dir={}", file("certs")),
        ]);
        let server = Process::start(command, folder.join("apiserver.log"));
        let cluster = Self {
            folder: folder.to_owned(),
            address,
            _processes: [server, etcd],
        };
        wait_for("the API server to be ready", || {
            let ready = run("curl", &cluster.curl("GET", "/readyz").each());
            ready.status.success().then_some(())
        });
        cluster
    }

    pub(super) fn url(&self, at: &str) -> String {
        format!("https://{}{at}", self.address)
    }

    /// Who vouches for the API server.
    pub(super) fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    pub(super) fn get(&self, at: &str) -> String {
        run_ok("curl", &self.curl("GET", at).each())
    }

    pub(super) fn create(&self, at: &str, object: &Value) -> Value {
        let mut curl = self.curl("POST", at);
        curl.0.extend(
            [
                "-H",
                "Content-Type: application/json",
                "-d",
                &object.to_string(),
            ]
            .map(str::to_owned),
        );
        let made = run_ok("curl", &curl.each());
        serde_json::from_str(&made).expect("JSON")
    }

    pub(super) fn delete(&self, at: &str) {
        run_ok("curl", &self.curl("DELETE", at).each());
    }

    /// A namespace with a service account of one name.
    pub(super) fn account(&self, namespace: &str, name: &str) {
        self.create(
            "/api/v1/namespaces",
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        );
        self.create(
            &format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
            &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}),
        );
    }

    /// Lets a service account of `namespace` do what `role` may.
    pub(super) fn grant(&self, namespace: &str, account: &str, role: &str) {
        self.create(
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            &json!({
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": format!("{account}-{}", role.replace(':', "-"))},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
            }),
        );
    }

    /// Gives the UID of a new pod under a service account.
    pub(super) fn pod(&self, namespace: &str, account: &str, name: &str) -> String {
        let pod = self.create(
            &format!("/api/v1/namespaces/{namespace}/pods"),
            &json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name},
                "spec": {
                    "serviceAccountName": account,
                    "automountServiceAccountToken": false,
                    "containers": [{"name": "app", "image": "none"}],
                },
            }),
        );
        pod["metadata"]["uid"].as_str().expect("a UID").to_owned()
    }

    /// What the kubelet asks for to fill a projected volume; `pod` is a name and a UID.
    pub(super) fn token(
        &self,
        (namespace, account): (&str, &str),
        audience: &str,
        pod: Option<(&str, &str)>,
    ) -> String {
        let bound = pod.map(
            |(name, uid)| json!({"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}),
        );
        let answer = self.create(
            &format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"),
            &json!({
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"audiences": [audience], "expirationSeconds": 600, "boundObjectRef": bound},
            }),
        );
        let token = answer["status"]["token"].as_str();
        token.expect("a token").to_owned()
    }

    /// As an administrator of the cluster.
    fn curl(&self, method: &str, at: &str) -> Curl {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let mut arguments = ["-sS", "--fail-with-body", "--max-time", "20", "-X", method]
            .map(str::to_owned)
            .to_vec();
        for (name, value) in [
            ("--cacert", file("ca.crt")),
            ("--cert", file("admin.crt")),
            ("--key", file("admin.key")),
        ] {
            arguments.extend([name.to_owned(), value]);
        }
        arguments.push(self.url(at));
        Curl(arguments)
    }
}

struct Curl(Vec<String>);

impl Curl {
    fn each(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

/// An authority, the server, an administrator, and the key that signs the tokens of service accounts (RSA, as clusters
/// have it).
fn certificates(folder: &Path) {
    let write = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).expect("a file");
    };
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "test authority");
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
    write("ca.crt", &authority.pem());
    for (name, organisation, usage) in [
        ("server", "servers", ExtendedKeyUsagePurpose::ServerAuth),
        (
            "admin",
            "system:masters",
            ExtendedKeyUsagePurpose::ClientAuth,
        ),
    ] {
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, organisation);
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &authority).expect("a certificate");
        write(&format!("{name}.crt"), &certificate.pem());
        write(&format!("{name}.key"), &key.serialize_pem());
    }
    let (private, public) = (folder.join("accounts.key"), folder.join("accounts.pub"));
    run_ok("openssl", &["genrsa", "-out", path(&private), "2048"]);
    let arguments = [
        "rsa",
        "-in",
        path(&private),
        "-pubout",
        "-out",
        path(&public),
    ];
    run_ok("openssl", &arguments);
}
