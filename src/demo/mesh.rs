//! The demo's mesh: one CA, two services, three sidecars (the third belongs to a workload nobody granted anything).

use super::apps;
use super::client::{Call, Reply, post_to_socket};
use super::documents::{NEWSLETTER, ORDERS, POLICY, STOREFRONT, Sidecar, TRUST_DOMAIN};
use super::processes::{Folder, Process, free_addresses, run_to_end};
use anyhow::Context;
use hyper::{Method, StatusCode};
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug)]
pub(super) struct Mesh {
    pub(super) storefront: Ports,
    pub(super) orders: Ports,
    pub(super) newsletter: Ports,
    /// The storefront's own address, for callers from outside the mesh.
    shop: SocketAddr,
    ca: Option<Process>,
    ca_listen: SocketAddr,
    ca_admin: SocketAddr,
    // Held until the mesh is dropped, which ends them.
    _sidecars: Vec<Process>,
    // Dropped last: the processes use it.
    pub(super) folder: Folder,
}

/// Where a sidecar listens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    name: &'static str,
    pub(super) inbound: SocketAddr,
    pub(super) outbound: SocketAddr,
    admin: SocketAddr,
}

impl Ports {
    fn new(name: &'static str, [inbound, outbound, admin]: [SocketAddr; 3]) -> Self {
        Self {
            name,
            inbound,
            outbound,
            admin,
        }
    }

    /// A call as the workload beside this sidecar makes it.
    pub(super) fn call<'a>(&self, method: Method, path: &'a str) -> Call<'a> {
        Call {
            to: self.outbound,
            host: "orders",
            method,
            path,
        }
    }

    /// A call to the sidecar's administration port.
    pub(super) fn ask<'a>(&self, path: &'a str) -> Call<'a> {
        Call {
            to: self.admin,
            host: "localhost",
            method: Method::GET,
            path,
        }
    }
}

impl Mesh {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let folder = Folder::create()?;
        let [ca_listen, ca_admin, a, b, c, d, e, f, g, h, i] = free_addresses()?;
        let (storefront, orders, newsletter) = (
            Ports::new("storefront", [a, b, c]),
            Ports::new("orders", [d, e, f]),
            Ports::new("newsletter", [g, h, i]),
        );
        let orders_app = apps::orders().await?;
        let shop = apps::storefront(storefront.outbound).await?;
        let ca_dir = folder.join("ca").display().to_string();
        folder.write("policy/shop.yaml", POLICY)?;
        folder.write("ca.pass", &passphrase()?)?;
        let passphrase_file = folder.join("ca.pass").display().to_string();
        run_to_end(&[
            "ca",
            "init",
            "--dir",
            &ca_dir,
            "--trust-domain",
            TRUST_DOMAIN,
            "--passphrase-file",
            &passphrase_file,
        ])
        .await?;

        let mut mesh = Self {
            storefront,
            orders,
            newsletter,
            shop,
            ca: None,
            ca_listen,
            ca_admin,
            _sidecars: Vec::new(),
            folder,
        };
        mesh.start_ca().await?;
        for (ports, id, app) in [
            (orders, ORDERS, Some(orders_app)),
            (storefront, STOREFRONT, Some(shop)),
            (newsletter, NEWSLETTER, None),
        ] {
            let sidecar = mesh.start_sidecar(ports, id, app).await?;
            mesh._sidecars.push(sidecar);
        }
        Ok(mesh)
    }

    pub(super) async fn start_ca(&mut self) -> anyhow::Result<()> {
        let (dir, passphrase) = (
            self.folder.join("ca").display().to_string(),
            self.folder.join("ca.pass").display().to_string(),
        );
        let (listen, admin) = (self.ca_listen.to_string(), self.ca_admin.to_string());
        let mut ca = Process::start(
            &self.folder,
            "ca",
            &[
                "ca",
                "serve",
                "--dir",
                &dir,
                "--passphrase-file",
                &passphrase,
                "--listen",
                &listen,
                "--admin-listen",
                &admin,
                "--allow-short-ttl-for-tests",
            ],
        )?;
        ca.until_ok(self.ca_admin, "/ready").await?;
        self.ca = Some(ca);
        Ok(())
    }

    pub(super) async fn stop_ca(&mut self) -> anyhow::Result<()> {
        self.ca
            .take()
            .context("the CA is not running")?
            .kill()
            .await
    }

    async fn start_sidecar(
        &self,
        ports: Ports,
        id: &str,
        app: Option<SocketAddr>,
    ) -> anyhow::Result<Process> {
        let name = ports.name;
        let ca_dir = self.folder.join("ca").display().to_string();
        let token = run_to_end(&["ca", "token", "create", "--dir", &ca_dir, "--id", id]).await?;
        self.folder.write(&format!("{name}.token"), &token)?;
        let config = Sidecar {
            name,
            id,
            inbound: app.map(|app| (ports.inbound, app)),
            outbound: ports.outbound,
            admin: ports.admin,
            ca: self.ca_listen,
            orders: self.orders.inbound,
        }
        .config(self.folder.path());
        let config = self.folder.write(&format!("{name}.yaml"), &config)?;
        let mut process = Process::start(
            &self.folder,
            name,
            &["proxy", "--config", &config.display().to_string()],
        )?;
        process.until_ok(ports.admin, "/ready").await?;
        Ok(process)
    }

    /// Asks a sidecar for a new certificate at once.
    pub(super) async fn rotate(&self, ports: &Ports) -> anyhow::Result<Reply> {
        let reply = post_to_socket(&self.socket(ports), "/rotate").await?;
        anyhow::ensure!(
            reply.status == StatusCode::OK,
            "POST /rotate answered {}: {}",
            reply.status,
            reply.body
        );
        Ok(reply)
    }

    pub(super) fn socket(&self, ports: &Ports) -> PathBuf {
        self.folder.join(&format!("{}.sock", ports.name))
    }

    pub(super) fn commands_to_try(&self) -> String {
        let storefront = &self.storefront;
        let lines = [
            format!(
                "  curl -i http://{}/   # the shop front, which asks orders through its sidecar",
                self.shop
            ),
            format!(
                "  {}",
                storefront.call(Method::GET, "/api/v1/orders/42").as_curl()
            ),
            format!(
                "  {}   # denied: no grant for it",
                storefront
                    .call(Method::DELETE, "/api/v1/orders/42")
                    .as_curl()
            ),
            format!(
                "  {}   # denied: nobody granted it anything",
                self.newsletter
                    .call(Method::GET, "/api/v1/orders/42")
                    .as_curl()
            ),
            format!("  curl -s http://{}/identity", storefront.admin),
            format!("  curl -s http://{}/metrics", storefront.admin),
            format!(
                "  curl -s --unix-socket {} -X POST http://localhost/rotate",
                self.socket(storefront).display()
            ),
            format!(
                "  # configuration, policy and logs: {}",
                self.folder.path().display()
            ),
        ];
        lines.join("\n")
    }
}

/// A fresh random passphrase for the demo's CA.
fn passphrase() -> anyhow::Result<String> {
    let mut bytes = [0; 24];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("reading random bytes")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
