//! A CA of three replicas on one PostgreSQL database: each may be killed at any time, and the database may go away.

use super::postgres::Postgres;
use crate::harness::{PATIENCE, Process, free_address, path, tipstaff, tipstaff_ok, wait_for};
use ca::client::{self, ClientConfig, Handles, Keys, Proof};
use ca::store::{Database, ServerTrust};
use identity::{SpiffeId, TrustBundle, TrustDomain};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

const CLIENTS: usize = 12;

/// One process of the CA, with a directory of its own that has the same keys as the others'.
pub(super) struct Replica {
    pub(super) config: PathBuf,
    pub(super) listen: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) process: Option<Process>,
}

impl Replica {
    pub(super) fn serve(&mut self) {
        let arguments = ["ca", "serve", "--config", path(&self.config)];
        let log = self.config.with_extension("log");
        self.process = Some(Process::tipstaff(&arguments, log));
    }

    pub(super) fn answers(&self) -> bool {
        std::net::TcpStream::connect(self.listen).is_ok()
    }
}

pub(super) struct Replicas {
    pub(super) database: Postgres,
    pub(super) replicas: Vec<Replica>,
    pub(super) folder: TempDir,
}

impl Replicas {
    pub(super) fn start() -> Self {
        let database = Postgres::start();
        let folder = TempDir::new().expect("a folder");
        let at = folder.path();
        std::fs::write(at.join("url"), url(&database)).expect("a file");
        let mut replicas = Vec::new();
        for number in 0..3 {
            let (listen, config) = (free_address(), at.join(format!("{number}.yaml")));
            let admin = free_address();
            let text = format!(
                "dir: {0}/{number}\nlisten: {listen}\nadmin: {{listen: {admin}}}\nallowShortTtlForTests: true\n\
                 store: {{postgres: {{urlFile: {0}/url}}}}\n",
                at.display()
            );
            std::fs::write(&config, text).expect("a file");
            if number == 0 {
                let domain = ["--trust-domain", "test.example"];
                let init = ["ca", "init", "--config", path(&config)];
                tipstaff_ok(&[&init[..], &domain[..]].concat());
            } else {
                copy(&at.join("0"), &at.join(number.to_string()));
            }
            replicas.push(Replica {
                config,
                listen,
                admin,
                process: None,
            });
        }
        for replica in &mut replicas {
            replica.serve();
        }
        for replica in &replicas {
            wait_for("a replica", || replica.answers().then_some(()));
        }
        Self {
            database,
            replicas,
            folder,
        }
    }

    pub(super) fn config(&self) -> &str {
        path(&self.replicas[0].config)
    }

    fn records(&self) -> Database {
        let server = ca::store::Postgres::new(&url(&self.database), &ServerTrust::SameMachine);
        Database::Postgres(server.expect("a database"))
    }

    fn bundle(&self) -> TrustBundle {
        let pem = std::fs::read(self.folder.path().join("0/ca-bundle.pem")).expect("a file");
        let domain = TrustDomain::parse("test.example").expect("a name");
        TrustBundle::from_pem(domain, &pem, 1).expect("a bundle")
    }

    /// A workload that enrols and stays, by whatever replica is behind `endpoint`.
    pub(super) fn client(&self, name: &str, endpoint: SocketAddr) -> Handles {
        let id = format!("spiffe://test.example/ns/load/sa/{name}");
        let create = [
            "ca",
            "token",
            "create",
            "--config",
            self.config(),
            "--id",
            &id,
        ];
        let token = tipstaff_ok(&create);
        client::start(ClientConfig {
            endpoint: format!("https://{endpoint}"),
            bundle: self.bundle(),
            spiffe_id: SpiffeId::parse(&id).expect("an ID"),
            proof: Proof::Enrolment {
                key_path: self.folder.path().join(format!("{name}.key")),
                join_token: Some(token.into()),
            },
            ttl: None,
            keys: Keys::Kept,
        })
        .expect("a client")
    }
}

fn url(database: &Postgres) -> String {
    format!("postgres://postgres@{}/postgres", database.address)
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let arguments = ["-a", path(from), path(to)];
    super::run_ok("cp", &arguments);
}

/// Gives each connection to the next replica that takes it, as a load balancer in front of them would.
async fn balance(listener: TcpListener, replicas: Vec<SocketAddr>) {
    let mut next = 0;
    while let Ok((mut caller, _)) = listener.accept().await {
        let order: Vec<_> = (0..replicas.len())
            .map(|turn| replicas[(next + turn) % replicas.len()])
            .collect();
        next += 1;
        tokio::spawn(async move {
            for address in order {
                if let Ok(mut replica) = TcpStream::connect(address).await {
                    tokio::io::copy_bidirectional(&mut caller, &mut replica)
                        .await
                        .ok();
                    return;
                }
            }
        });
    }
}

/// Renews one certificate after the other until it is told to stop, and gives the serials it got. A renewal that fails
/// is tried again; one that goes on failing is a failure of the test.
async fn renew(handles: Handles, stop: Arc<AtomicBool>, retries: Arc<AtomicUsize>) -> Vec<String> {
    let mut serials = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        loop {
            let (answer, answered) = oneshot::channel();
            handles.renew.send(answer).await.expect("the client runs");
            match answered.await {
                Ok(Ok(())) => break,
                failed => {
                    assert!(
                        start.elapsed() < PATIENCE,
                        "not cured by retrying: {failed:?}"
                    );
                    retries.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        let svid = handles.svid.borrow().clone().expect("an identity");
        serials.push(svid.leaf().serial.clone());
        // Below what one identity may ask for.
        tokio::time::sleep(Duration::from_millis(110)).await;
    }
    serials
}

#[test]
fn replicas_are_killed_and_the_database_restarts_under_load_and_nothing_is_lost_or_given_twice() {
    let mut cluster = Replicas::start();
    let runtime = Runtime::new().expect("a runtime");
    let _entered = runtime.enter();
    let listener = runtime
        .block_on(TcpListener::bind("127.0.0.1:0"))
        .expect("a port");
    let endpoint = listener.local_addr().expect("an address");
    let addresses = cluster.replicas.iter().map(|replica| replica.listen);
    runtime.spawn(balance(listener, addresses.collect()));
    let (stop, retries) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let handles = cluster.client(&format!("w{number}"), endpoint);
            runtime.spawn(renew(handles, Arc::clone(&stop), Arc::clone(&retries)))
        })
        .collect();

    for round in 0..9 {
        // Not always at the same point of a group.
        std::thread::sleep(Duration::from_millis(1800 + (round * 37) % 200));
        if round == 4 {
            cluster.database.restart(Duration::from_secs(1));
            continue;
        }
        let replica = &mut cluster.replicas[round as usize % 3];
        replica.process.take().expect("it runs").kill();
        std::thread::sleep(Duration::from_millis(300));
        replica.serve();
        wait_for("the replica", || replica.answers().then_some(()));
    }
    stop.store(true, Ordering::Relaxed);
    let mut given = Vec::new();
    for client in clients {
        given.extend(runtime.block_on(client).expect("a client that got on"));
    }

    let unique: BTreeSet<_> = given.iter().cloned().collect();
    assert_eq!(unique.len(), given.len(), "a serial was given twice");
    let listed = ca::inspect::certificates(cluster.records(), SystemTime::now(), 1_000_000);
    let recorded: BTreeSet<_> = listed
        .expect("a list")
        .into_iter()
        .map(|certificate| certificate.serial)
        .collect();
    let lost: Vec<_> = unique.difference(&recorded).collect();
    assert!(lost.is_empty(), "without a record: {lost:?}");
    assert!(
        given.len() > 200,
        "too few certificates to say anything: {}",
        given.len()
    );
    let retried = retries.load(Ordering::Relaxed);
    assert!(retried > 0, "no kill was felt: the test shows nothing");
    let verified = tipstaff(&["ca", "audit", "verify", "--config", cluster.config()]);
    assert!(verified.status.success(), "{verified:?}");
    println!("{} certificates, {retried} calls tried again", given.len());
}

#[test]
fn what_one_replica_publishes_reaches_the_clients_of_the_others() {
    let cluster = Replicas::start();
    let runtime = Runtime::new().expect("a runtime");
    let _entered = runtime.enter();
    let mut bundles: Vec<_> = cluster
        .replicas
        .iter()
        .enumerate()
        .map(|(number, replica)| {
            let client = cluster.client(&format!("w{number}"), replica.listen);
            runtime.block_on(async {
                let mut svid = client.svid.clone();
                let first = svid.wait_for(|svid| svid.is_some());
                tokio::time::timeout(PATIENCE, first)
                    .await
                    .expect("in time")
                    .expect("it runs");
            });
            client
        })
        .collect();
    // A fourth process: what an operator's command is.
    let open = ca::config::OpenOptions {
        passphrase: Some(ca::keys::Passphrase::new(passphrase()).expect("a passphrase")),
        database: Some(cluster.records()),
        ..ca::config::OpenOptions::default()
    };
    let authority = ca::Authority::open(&cluster.folder.path().join("0"), &open).expect("a CA");
    let mut authorities = cluster.bundle().authorities().to_vec();
    authorities.push(another_root());
    runtime.block_on(async {
        authority
            .publish_authorities(authorities)
            .await
            .expect("published");
        for client in &mut bundles {
            let newer = client.bundle.wait_for(|bundle| bundle.sequence() == 2);
            let seen = tokio::time::timeout(PATIENCE, newer)
                .await
                .expect("in time");
            assert_eq!(seen.expect("it runs").authorities().len(), 2);
        }
    });
}

/// What the harness gives every command.
fn passphrase() -> zeroize::Zeroizing<Vec<u8>> {
    crate::harness::PASSPHRASE.as_bytes().to_vec().into()
}

fn another_root() -> rustls::pki_types::CertificateDer<'static> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    params.self_signed(&key).expect("a certificate").into()
}

#[test]
fn while_the_database_is_away_nothing_is_issued_and_afterwards_everything_is() {
    let mut cluster = Replicas::start();
    let runtime = Runtime::new().expect("a runtime");
    let _entered = runtime.enter();
    let client = cluster.client("waits", cluster.replicas[0].listen);
    let renewed = || {
        runtime.block_on(async {
            let (answer, answered) = oneshot::channel();
            client.renew.send(answer).await.expect("the client runs");
            answered.await.expect("an answer")
        })
    };
    wait_for("the first certificate", || renewed().ok());
    cluster.database.stop();
    let refused = renewed().expect_err("no record can be made");
    assert!(
        refused.contains("unavailable") || refused.contains("Unavailable"),
        "{refused}"
    );
    cluster.database.start_again();
    wait_for("a renewal", || renewed().ok());
    let verified = tipstaff(&["ca", "audit", "verify", "--config", cluster.config()]);
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn every_command_finds_the_records_and_none_shows_the_password() {
    let database = Postgres::start();
    database.ask("create role ca login superuser password 'hunter2'");
    let folder = TempDir::new().expect("a folder");
    let at = folder.path();
    let url = format!("postgres://ca:hunter2@{}/postgres", database.address);
    std::fs::write(at.join("url"), url).expect("a file");
    let config = at.join("ca.yaml");
    let text = format!(
        "dir: {0}/ca\nstore: {{postgres: {{urlFile: {0}/url}}}}\n",
        at.display()
    );
    std::fs::write(&config, text).expect("a file");
    let ca = |arguments: &[&str]| {
        let place = ["--config", path(&config)];
        let output = tipstaff(&[&["ca"], arguments, &place[..]].concat());
        for said in [&output.stdout, &output.stderr] {
            assert!(
                !String::from_utf8_lossy(said).contains("hunter2"),
                "{output:?}"
            );
        }
        output
    };
    let done = |arguments: &[&str]| {
        let output = ca(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    done(&["init", "--trust-domain", "test.example"]);
    assert!(!at.join("ca/ca.db").exists());
    let id = "spiffe://test.example/ns/shop/sa/orders";
    done(&["token", "create", "--id", id]);
    let csr = at.join("orders.csr");
    let key = rcgen::KeyPair::generate().expect("a key");
    let request = rcgen::CertificateParams::default().serialize_request(&key);
    std::fs::write(&csr, request.expect("a request").pem().expect("PEM")).expect("a file");
    done(&["issue", "--id", id, "--csr", path(&csr)]);
    assert!(done(&["list"]).contains(id));
    assert!(done(&["inspect"]).contains("unexpired_certificates   1"));
    assert!(done(&["audit", "list"]).contains("issued"));
    assert!(done(&["audit", "verify"]).contains("audit chain intact: 3 records"));
    done(&["check"]);

    // A database has one CA, and no CA issues without its database.
    std::fs::rename(at.join("ca"), at.join("elsewhere")).expect("a folder");
    let second = ca(&["init", "--trust-domain", "test.example"]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("found one with"), "{said}");
    assert!(!at.join("ca").exists());
    database.ask("update audit set time_ms = time_ms + 1 where seq = 2");
    std::fs::rename(at.join("elsewhere"), at.join("ca")).expect("a folder");
    assert_eq!(ca(&["audit", "verify"]).status.code(), Some(1));
}
