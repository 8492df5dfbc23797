//! Rotation of authorities whose keys are in a PKCS#11 token: what is made there, and what is left there.

use super::linters::judge;
use super::pkcs11::{Hsm, request, said};
use super::run_ok;
use crate::harness::{STOREFRONT, path, wait_for};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::process::Output;

impl Hsm {
    fn rotate(&self, step: &str, more: &[&str]) -> Output {
        // As `ca` has the configuration follow the command.
        let config = self.file("ca.yaml");
        let fixed = ["ca", "rotate", step, "--config", path(&config)];
        self.run(env!("CARGO_BIN_EXE_tipstaff"), &[&fixed[..], more].concat())
    }

    fn rotated(&self, step: &str, more: &[&str]) -> String {
        let output = self.rotate(step, more);
        assert!(output.status.success(), "{step} {more:?}: {output:?}");
        said(&output)
    }

    /// The IDs of the private keys in the token.
    fn keys(&self) -> Vec<String> {
        let listed = self.tool(&["--list-objects", "--type", "privkey"]);
        assert_eq!(
            listed.matches("never extractable").count(),
            listed.matches("Private Key Object").count(),
            "{listed}"
        );
        let ids = listed
            .lines()
            .filter_map(|line| line.trim().strip_prefix("ID:"));
        let mut ids: Vec<_> = ids.map(|id| id.trim().to_owned()).collect();
        ids.sort();
        ids
    }

    fn public_keys(&self) -> usize {
        let listed = self.tool(&["--list-objects", "--type", "pubkey"]);
        listed.matches("Public Key Object").count()
    }

    /// The chain of a certificate that is issued by hand.
    fn chain(&self) -> String {
        let csr = request(self.folder.path());
        let issued = self.ca("issue", &["--id", STOREFRONT, "--csr", path(&csr)]);
        assert!(issued.status.success(), "{issued:?}");
        String::from_utf8(issued.stdout).expect("PEM")
    }

    fn issuer(&self) -> CertificateDer<'static> {
        let chain = self.chain();
        let mut certificates = CertificateDer::pem_slice_iter(chain.as_bytes());
        let issuer = certificates.nth(1).expect("a leaf and its issuer");
        issuer.expect("a certificate")
    }

    fn edit(&self, sql: &str) {
        let database = self.file("ca/ca.db");
        let script =
            "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1]) as db: db.execute(sys.argv[2])";
        run_ok("python3", &["-c", script, path(&database), sql]);
    }
}

/// The objects that a step says are left.
fn left(said: &str) -> Vec<String> {
    let lines = said
        .lines()
        .filter_map(|line| line.strip_prefix("still in the token: object "));
    let mut ids: Vec<_> = lines
        .map(|line| line.split(';').next().expect("an ID").to_owned())
        .collect();
    ids.sort();
    ids
}

#[test]
fn authorities_whose_keys_are_in_a_token_are_replaced_and_the_old_keys_named_that_can_go() {
    let hsm = Hsm::new();
    hsm.init();
    let first = hsm.keys();
    assert_eq!(first.len(), 2);
    let root = hsm.file("ca/ca-bundle.pem");
    let published = || std::fs::read_to_string(&root).expect("roots");
    let first_root = published();
    let _process = hsm.serve();
    let mut issuer = hsm.issuer();
    for (role, made) in [("--intermediate", 1), ("--root", 2)] {
        let before = hsm.keys();
        hsm.rotated("prepare", &[role]);
        let prepared = hsm.keys();
        assert_eq!(prepared.len(), before.len() + made);
        hsm.rotated("activate", &[role, "--published-for", "0s"]);
        wait_for("the CA to be ready", || {
            (hsm.ready().0 == 200).then_some(())
        });
        let next = hsm.issuer();
        assert_ne!(next, issuer);
        issuer = next;

        let gone = left(&hsm.rotated("retire", &[role, "--force"]));
        assert!(!gone.is_empty());
        assert_eq!(hsm.keys(), prepared, "nothing is taken out by itself");
        for id in &gone {
            assert!(before.contains(id), "{id} is not of {before:?}");
            for kind in ["privkey", "pubkey"] {
                hsm.tool(&["--delete-object", "--type", kind, "--id", id]);
            }
        }
        assert_eq!(hsm.issuer(), issuer);
        wait_for("the CA to be ready", || {
            (hsm.ready().0 == 200).then_some(())
        });
    }
    let chain = hsm.file("rotated.pem");
    std::fs::write(&chain, hsm.chain()).expect("a file");
    wait_for("the new root alone to be in the CA's directory", || {
        let roots = published();
        (roots != first_root && roots.matches("BEGIN").count() == 1).then_some(())
    });
    judge(hsm.folder.path(), &root, &chain, &[]);
    let kept = hsm.keys();
    assert!(
        kept.iter().filter(|id| first.contains(id)).count() == 1,
        "of the first keys the root's alone, which is no authority's in the database: {kept:?}"
    );
}

#[test]
fn what_a_preparation_that_comes_to_nothing_made_in_the_token_is_destroyed_and_nothing_else() {
    let hsm = Hsm::new();
    hsm.init();
    let (before, issuer) = (hsm.keys(), hsm.issuer());
    // It makes the key, and the trial finds that the root has ended.
    let config = hsm.file("ca.yaml");
    let program = env!("CARGO_BIN_EXE_tipstaff");
    let late = ["-f", "+4000d", program, "ca", "rotate", "prepare"];
    let what = ["--config", path(&config), "--intermediate"];
    let failed = hsm.run("faketime", &[&late[..], &what].concat());
    assert_eq!(failed.status.code(), Some(2), "{failed:?}");
    assert!(
        said(&failed).contains("the chain is not taken"),
        "{failed:?}"
    );
    assert_eq!((hsm.keys(), hsm.public_keys()), (before.clone(), 2));
    // As if somebody else had been quicker.
    hsm.edit("CREATE TRIGGER overtaken BEFORE INSERT ON authority WHEN NEW.state = 'prepared' BEGIN SELECT RAISE(IGNORE); END");
    let overtaken = hsm.rotate("prepare", &["--intermediate"]);
    assert!(
        said(&overtaken).contains("another one than it was when this step began"),
        "{overtaken:?}"
    );
    assert_eq!((hsm.keys(), hsm.public_keys()), (before.clone(), 2));
    hsm.edit("DROP TRIGGER overtaken");
    // The database does not take it.
    hsm.edit("CREATE TRIGGER refused BEFORE INSERT ON authority WHEN NEW.state = 'prepared' BEGIN SELECT RAISE(ABORT, 'refused'); END");
    let refused = hsm.rotate("prepare", &["--intermediate"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert_eq!((hsm.keys(), hsm.public_keys()), (before.clone(), 2));
    hsm.edit("DROP TRIGGER refused");
    assert_eq!(hsm.issuer(), issuer);

    for _ in 0..2 {
        hsm.rotated("prepare", &["--intermediate"]);
    }
    assert_eq!(hsm.keys().len(), before.len() + 1);
    let given_up = hsm.rotated("abandon", &["--intermediate"]);
    assert_eq!(left(&given_up).len(), 1);
    assert!(!before.contains(&left(&given_up)[0]));
}
