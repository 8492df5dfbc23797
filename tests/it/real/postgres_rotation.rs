//! The authorities of a CA of three replicas on one PostgreSQL database are replaced: each step through another replica, while
//! one of them is killed.

use super::Session;
use super::postgres::psql_command;
use super::postgres_ca::Replicas;
use crate::harness::http::get;
use crate::harness::{Process, path, tipstaff, tipstaff_ok, wait_for};
use ca::client::Handles;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::process::Output;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

const REPLICAS: usize = 3;

/// The replicas, and a workload at each of them.
struct Fleet {
    cluster: Replicas,
    runtime: Runtime,
    workloads: Vec<Handles>,
}

impl Fleet {
    fn start() -> Self {
        let cluster = Replicas::start();
        let runtime = Runtime::new().expect("a runtime");
        let entered = runtime.enter();
        let workload = |number: usize| {
            let name = format!("at-{number}");
            cluster.client(&name, cluster.replicas[number].listen)
        };
        let workloads = (0..REPLICAS).map(workload).collect();
        drop(entered);
        let fleet = Self {
            cluster,
            runtime,
            workloads,
        };
        for replica in 0..REPLICAS {
            wait_for("a first certificate", || fleet.issuer(replica).ok());
        }
        fleet
    }

    /// `tipstaff ca rotate STEP` where a replica is.
    fn rotate(&self, replica: usize, step: &str, more: &[&str]) -> Output {
        tipstaff(&[&self.arguments(replica, step)[..], more].concat())
    }

    fn arguments<'a>(&'a self, replica: usize, step: &'a str) -> [&'a str; 5] {
        let config = path(&self.cluster.replicas[replica].config);
        ["ca", "rotate", step, "--config", config]
    }

    fn status(&self) -> String {
        tipstaff_ok(&self.arguments(0, "status"))
    }

    /// What signs the certificates that a replica issues, or why it issues none.
    fn issuer(&self, replica: usize) -> Result<CertificateDer<'static>, String> {
        let workload = &self.workloads[replica];
        self.runtime.block_on(async {
            let (answer, answered) = oneshot::channel();
            workload.renew.send(answer).await.expect("the client runs");
            answered.await.expect("an answer")?;
            let svid = workload.svid.borrow().clone().expect("an identity");
            Ok(svid.chain()[1].clone())
        })
    }

    /// All of `replicas` issue under the same authority, which is another than `before`.
    fn follow(&self, replicas: &[usize], before: &CertificateDer<'_>) -> CertificateDer<'static> {
        let issuers = replicas.iter().map(|replica| {
            wait_for("a replica to follow", || {
                let issuer = self.issuer(*replica).ok();
                issuer.filter(|issuer| issuer != before)
            })
        });
        let issuers: Vec<_> = issuers.collect();
        assert!(issuers.iter().all(|issuer| issuer == &issuers[0]));
        issuers[0].clone()
    }

    fn ready(&self, replica: usize) -> (u16, String) {
        let admin = self.cluster.replicas[replica].admin;
        let reply = wait_for("an admin port", || get(admin, "/ready"));
        (reply.status, reply.body)
    }

    fn restart(&mut self, replica: usize) {
        let replica = &mut self.cluster.replicas[replica];
        if let Some(mut process) = replica.process.take() {
            process.kill();
        }
        replica.serve();
        wait_for("the replica", || replica.answers().then_some(()));
    }

    fn roots_in_directory(&self, replica: usize) -> usize {
        let file = format!("{replica}/ca-bundle.pem");
        let pem = std::fs::read(self.cluster.folder.path().join(file)).expect("a bundle");
        CertificateDer::pem_slice_iter(&pem).count()
    }

    /// Begins a step, and kills it together with a replica once it has written half of what it writes.
    fn cut_off(&mut self, replica: usize, step: &str, more: &[&str]) {
        let before = self.status();
        let address = self.cluster.database.address;
        let mut holder = Session::start(psql_command("127.0.0.1", address.port(), 60, &[]));
        // A step changes an authority or the bundle, and then writes its audit record.
        holder.say("begin; lock table audit in share row exclusive mode; select 'held';");
        holder.hear("held");
        let arguments = [&self.arguments(replica, step)[..], more].concat();
        let log = self.cluster.folder.path().join("cut-off.log");
        let mut process = Process::tipstaff(&arguments, log);
        wait_for("the step to wait for its audit record", || {
            // Whoever else writes a record has touched neither an authority nor the bundle.
            let waiting = "select count(*) from pg_locks audit join pg_locks touched using (pid)
                 where audit.relation = 'audit'::regclass and not audit.granted
                 and touched.relation in ('authority'::regclass, 'bundle'::regclass) and touched.granted
                 and touched.mode = 'RowExclusiveLock'";
            (self.cluster.database.ask(waiting) != "0\n").then_some(())
        });
        process.kill();
        let victim = &mut self.cluster.replicas[replica];
        victim.process.take().expect("it runs").kill();
        holder.say("rollback; select 'released';");
        holder.hear("released");
        self.restart(replica);
        assert_eq!(self.status(), before, "{step} was cut off");
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn each_step_through_another_replica_is_followed_by_all_though_it_is_cut_off_and_replicas_are_killed()
 {
    let mut fleet = Fleet::start();
    let mut issuer = fleet.issuer(0).expect("a certificate");
    let mut number = 0;
    for role in ["--intermediate", "--root"] {
        let steps: [(&str, &[&str]); 3] = [
            ("prepare", &[role]),
            ("activate", &[role, "--published-for", "0s"]),
            // Certificates of an hour are under what is replaced.
            ("retire", &[role, "--force"]),
        ];
        for (step, more) in steps {
            number += 1;
            let (by, killed) = (number % REPLICAS, (number + 1) % REPLICAS);
            if (step, role) == ("activate", "--root") {
                // Every workload has heard of the root, and what one of them waits for comes from a replica that was killed.
                wait_for("the bundle to be acknowledged", || {
                    fleet.status().contains("3 of 3 live").then_some(())
                });
            }
            fleet.cut_off(by, step, more);
            let victim = &mut fleet.cluster.replicas[killed];
            victim.process.take().expect("it runs").kill();
            let done = wait_for(step, || {
                let done = fleet.rotate(by, step, more);
                done.status.success().then_some(done)
            });
            let again = fleet.rotate(by, step, more);
            assert!(again.status.success(), "{step} twice: {again:?}");
            fleet.restart(killed);
            match step {
                "activate" => issuer = fleet.follow(&[0, 1, 2], &issuer),
                _ => {
                    for replica in 0..REPLICAS {
                        let same = wait_for("a certificate", || fleet.issuer(replica).ok());
                        assert_eq!(same, issuer, "{step} at {replica}: {done:?}");
                    }
                }
            }
            for replica in 0..REPLICAS {
                wait_for("the replica to be ready", || {
                    (fleet.ready(replica).0 == 200).then_some(())
                });
            }
        }
    }
    for replica in 0..REPLICAS {
        wait_for("one root to be left", || {
            (fleet.roots_in_directory(replica) == 1).then_some(())
        });
    }
    let verified = tipstaff(&["ca", "audit", "verify", "--config", fleet.cluster.config()]);
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn a_replica_that_cannot_open_the_next_key_says_so_and_never_signs_with_the_one_that_is_forgotten()
{
    let mut fleet = Fleet::start();
    let before = fleet.issuer(0).expect("a certificate");
    let prepared = fleet.rotate(0, "prepare", &["--root"]);
    assert!(prepared.status.success(), "{prepared:?}");
    for replica in 0..REPLICAS {
        // It has opened the next key by then.
        wait_for("two roots", || {
            (fleet.roots_in_directory(replica) == 2).then_some(())
        });
    }
    let spoil = |from: &str, to: &str| {
        let query = format!(
            "update authority set key_file = replace(key_file, '{from}', '{to}') where role = 'intermediate' and state = 'prepared'"
        );
        fleet.cluster.database.ask(&query);
    };
    spoil("nonce: ", "nonce: AA");
    fleet.restart(2);
    wait_for("the third replica to say so", || {
        let (status, reason) = fleet.ready(2);
        (status == 200 && reason.contains("prepared cannot be used here")).then_some(())
    });
    wait_for("a certificate", || fleet.issuer(2).ok());
    assert_eq!(fleet.ready(1).0, 200, "it has the key open");

    let forced = ["--root", "--force"];
    let activated = fleet.rotate(1, "activate", &forced);
    assert!(activated.status.success(), "{activated:?}");
    let after = fleet.follow(&[0, 1], &before);
    wait_for("the third replica to say that it does not follow", || {
        let (status, reason) = fleet.ready(2);
        (status == 503 && reason.contains("is to sign cannot be used here")).then_some(())
    });
    let lagging = wait_for("a certificate", || fleet.issuer(2).ok());
    assert_eq!(lagging, before, "the old authority is not retired");

    let retired = fleet.rotate(0, "retire", &forced);
    assert!(
        said(&retired).contains("have to enrol again"),
        "{retired:?}"
    );
    let refused = fleet.issuer(2).expect_err("its key is forgotten");
    assert!(!refused.is_empty());
    assert_eq!(fleet.issuer(0).as_ref(), Ok(&after));
}
