use super::*;
use crate::authority::{Authority, Request, Requester, init};
use crate::config::{InitOptions, KeyProtection, OpenOptions};
use crate::csr::PublicKey;
use crate::revoke::{Reason, Target};
use crate::store::Store;
use identity::{Revocations, SpiffeId, TrustDomain};
use rcgen::{KeyPair, PublicKeyData};
use std::sync::Arc;
use tar::EntryType;
use tempfile::TempDir;

pub(super) struct Ca {
    pub(super) folder: TempDir,
    pub(super) dir: PathBuf,
    pub(super) authority: Authority,
}

fn passphrase() -> Passphrase {
    Passphrase::new(b"for the backup".to_vec()).unwrap()
}

impl Ca {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ca");
        let domain = TrustDomain::parse("demo.test").unwrap();
        init(
            &dir,
            &InitOptions::new(domain, KeyProtection::InsecurePlaintext),
        )
        .unwrap();
        let authority = Authority::open(&dir, &OpenOptions::default()).unwrap();
        Self {
            folder,
            dir,
            authority,
        }
    }

    pub(super) async fn issue(&self) -> String {
        issue(&self.authority).await
    }

    /// Changes the database behind the CA's back.
    pub(super) fn edit(&self, sql: &str) {
        let database = rusqlite::Connection::open(self.dir.join(DATABASE)).unwrap();
        database.execute_batch(sql).unwrap();
    }

    pub(super) fn file(&self) -> PathBuf {
        self.folder.path().join("backup.age")
    }

    pub(super) fn backup(&self) -> Result<Manifest, BackupError> {
        backup(
            &self.dir,
            &Database::from(&self.dir),
            &self.file(),
            &passphrase(),
        )
    }

    pub(super) fn restore(&self, name: &str) -> Result<PathBuf, BackupError> {
        let place = self.folder.path().join(name);
        self.restore_with(name, &RestoreOptions::default())?;
        Ok(place)
    }

    pub(super) fn restore_with(
        &self,
        name: &str,
        options: &RestoreOptions,
    ) -> Result<Restored, BackupError> {
        let place = self.folder.path().join(name);
        restore(&self.file(), &place, &passphrase(), options)
    }

    pub(super) fn restore_and_open(
        &self,
        options: &RestoreOptions,
    ) -> Result<(Restored, Authority), BackupError> {
        let restored = self.restore_with("restored", options)?;
        let place = self.folder.path().join("restored");
        let authority = Authority::open(&place, &OpenOptions::default()).unwrap();
        Ok((restored, authority))
    }
}

pub(super) const ORDERS: &str = "spiffe://demo.test/ns/shop/sa/orders";

pub(super) async fn revoke(store: &Store, target: Target) {
    let revoked = store.revoke(target, Reason::KeyCompromise, SystemTime::now());
    revoked.await.unwrap().unwrap();
}

/// What was revoked since is in `source`.
pub(super) fn taking(source: PathBuf) -> RestoreOptions {
    RestoreOptions {
        revocations: vec![Source::Path(source)],
        ..RestoreOptions::default()
    }
}

pub(super) fn list(authority: &Authority) -> Arc<Revocations> {
    authority.revocations().borrow().clone()
}

pub(super) fn request() -> Request {
    let key = KeyPair::generate().unwrap();
    Request {
        id: SpiffeId::parse(ORDERS).unwrap(),
        dns_names: Default::default(),
        public_key: PublicKey::from_spki(&key.subject_public_key_info()).unwrap(),
        ttl: None,
        until: None,
        requester: Requester::Operator,
    }
}

pub(super) async fn issue(authority: &Authority) -> String {
    authority.issue(request()).await.unwrap().serial
}

#[tokio::test]
async fn a_backup_of_a_ca_at_work_is_one_moment_of_it_and_issues_when_restored() {
    let ca = Ca::new();
    let before = ca.issue().await;
    let manifest = ca.backup().unwrap();
    assert_eq!(
        (manifest.trust_domain.as_str(), manifest.ledger_seq),
        ("demo.test", 2)
    );
    let after = ca.issue().await;

    let restored = ca.restore("restored").unwrap();
    let database = Database::from(&restored);
    let find = |serial: &str| crate::inspect::certificate(&database, serial).unwrap();
    assert!(find(&before).is_some());
    assert!(find(&after).is_none());
    for name in [
        "intermediate.key",
        "root.key",
        "intermediate.pem",
        "root.pem",
        "ca-bundle.pem",
    ] {
        let (old, new) = (ca.dir.join(name), restored.join(name));
        assert_eq!(fs::read(old).unwrap(), fs::read(new).unwrap(), "{name}");
    }
    let authority = Authority::open(&restored, &OpenOptions::default()).unwrap();
    issue(&authority).await;
    assert!(ledger::verify(&database).unwrap().is_intact());
    // Neither has left anything beside.
    let mut names: Vec<_> = fs::read_dir(ca.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["backup.age", "ca", "restored"]);
}

#[tokio::test]
async fn what_lies_beside_a_backup_is_left_alone_and_in_nobodys_way() {
    let ca = Ca::new();
    let dated = |day: &str| ca.folder.path().join(format!("ca.2026-11-{day}"));
    let theirs = ["snapshot", "drill"].map(|name| ca.folder.path().join("ca").with_extension(name));
    for directory in &theirs {
        fs::create_dir(directory).unwrap();
        fs::write(directory.join("precious"), b"").unwrap();
    }
    for day in ["22", "23"] {
        backup(
            &ca.dir,
            &Database::from(&ca.dir),
            &dated(day),
            &passphrase(),
        )
        .unwrap();
        check(&dated(day), &passphrase()).unwrap();
    }
    assert!(
        check(&theirs[0].join("precious"), &passphrase()).is_err(),
        "it is no backup"
    );
    for directory in &theirs {
        let names: Vec<_> = fs::read_dir(directory).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }
    assert_eq!(fs::read_dir(ca.folder.path()).unwrap().count(), 5);
}

#[tokio::test]
async fn a_file_that_was_changed_or_cut_off_restores_nothing() {
    let ca = Ca::new();
    ca.backup().unwrap();
    let whole = fs::read(ca.file()).unwrap();
    let mut changed = whole.clone();
    let middle = whole.len() / 2;
    changed[middle] ^= 1;
    for bytes in [&whole[..whole.len() - 1], &whole[..middle], &changed] {
        fs::write(ca.file(), bytes).unwrap();
        assert!(ca.restore("restored").is_err());
        assert!(!ca.folder.path().join("restored").exists());
    }
    fs::write(ca.file(), &whole).unwrap();
    let other = Passphrase::new(b"another".to_vec()).unwrap();
    let place = ca.folder.path().join("restored");
    assert!(restore(&ca.file(), &place, &other, &RestoreOptions::default()).is_err());
    assert!(!place.exists());
    ca.restore("restored").unwrap();
    assert!(ca.restore("restored").is_err(), "nothing is overwritten");
    assert!(ca.backup().is_err(), "nor here");
}

#[test]
fn archives_that_lead_elsewhere_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let manifest =
        br#"{"format":1,"trust_domain":"demo.test","made_at":1,"ledger_seq":1,"ledger_hash":""}"#;
    let build = |entries: &[(&str, EntryType)]| {
        let mut archive = Builder::new(Sealing::begin(Vec::new(), &passphrase()).unwrap());
        for (name, kind) in entries {
            let mut header = Header::new_ustar();
            let content: &[u8] = if *name == MANIFEST { manifest } else { b"" };
            header.set_size(content.len() as u64);
            header.set_entry_type(*kind);
            header.set_mode(0o600);
            // The checked way to set a name would refuse some of these.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            archive.append(&header, content).unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap()
    };
    let regular = EntryType::Regular;
    for entries in [
        &[(MANIFEST, regular), ("../evil.pem", regular)][..],
        &[(MANIFEST, regular), ("/tmp/evil.pem", regular)],
        &[(MANIFEST, regular), ("serve.lock", regular)],
        &[(MANIFEST, regular), ("root.pem", EntryType::Symlink)],
        &[(MANIFEST, regular), (MANIFEST, regular)],
        &[("root.pem", regular)],
        &[(MANIFEST, regular)],
        &[],
    ] {
        let file = folder.path().join("evil.age");
        fs::write(&file, build(entries)).unwrap();
        let place = folder.path().join("restored");
        assert!(
            restore(&file, &place, &passphrase(), &RestoreOptions::default()).is_err(),
            "{entries:?}"
        );
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "{entries:?}"
        );
    }
}

#[tokio::test]
async fn a_backup_of_any_earlier_release_is_restored_and_brought_up_to_date() {
    let Ca {
        folder,
        dir,
        authority,
    } = Ca::new();
    let serial = issue(&authority).await;
    revoke(authority.store(), Target::Serial(serial.clone())).await;
    drop(authority);
    let (present, database) = (fs::read(dir.join(DATABASE)).unwrap(), Database::from(&dir));
    for version in 1..=store::NEWEST {
        fs::write(dir.join(DATABASE), &present).unwrap();
        store::set_back(&dir, version);
        let at = |name: &str| folder.path().join(format!("{name}-{version}"));
        let (file, place) = (at("backup"), at("restored"));
        let manifest = backup(&dir, &database, &file, &passphrase()).unwrap();
        assert_eq!(manifest.ledger_seq, 3, "{version}");
        // What it was made of stays what it was, and so does what is in the backup.
        assert_eq!(store::is_older(&database).unwrap(), version < store::NEWEST);
        let contents = check(&file, &passphrase()).unwrap();
        assert_eq!(contents.database_version, version);

        // Nor does the directory have to be of this release, and it is left as it is.
        let options = taking(dir.clone());
        let restored = restore(&file, &place, &passphrase(), &options).unwrap();
        assert_eq!(store::is_older(&database).unwrap(), version < store::NEWEST);
        assert_eq!(restored.settled.revocations, 0, "{version}");
        let authority = Authority::open(&place, &OpenOptions::default()).unwrap();
        issue(&authority).await;
        let database = Database::from(&place);
        assert!(
            crate::inspect::certificate(&database, &serial)
                .unwrap()
                .is_some()
        );
        let list = authority.store().revocations().await.unwrap();
        assert_eq!(list.serials.contains(&serial), version >= 4, "{version}");
        assert!(ledger::verify(&database).unwrap().is_intact(), "{version}");
    }
}

#[tokio::test]
async fn a_backup_of_a_later_release_is_refused_unless_that_says_that_this_one_may_use_it() {
    let ca = Ca::new();
    let manifest = ca.backup().unwrap();
    let place = ca.restore("as-it-is").unwrap();
    for (oldest, usable) in [(store::NEWEST, true), (store::NEWEST + 1, false)] {
        let later = ca.folder.path().join("later");
        fs::create_dir(&later).unwrap();
        for (name, bytes) in read_all(&place, &small_files(&place).unwrap()).unwrap() {
            fs::write(later.join(name), bytes).unwrap();
        }
        store::snapshot(&Database::from(&ca.dir), &later.join(DATABASE)).unwrap();
        let database = rusqlite::Connection::open(later.join(DATABASE)).unwrap();
        let sql = "INSERT INTO schema_version (version, oldest) VALUES (?1, ?2)";
        database.execute(sql, [store::NEWEST + 1, oldest]).unwrap();
        drop(database);
        fs::write(ca.file(), sealed(&manifest, &later)).unwrap();
        let restored = ca.restore(if usable { "usable" } else { "unusable" });
        match (usable, restored) {
            (true, Ok(place)) => {
                let authority = Authority::open(&place, &OpenOptions::default()).unwrap();
                issue(&authority).await;
            }
            (false, Err(error)) => {
                let said = crate::causes::in_full(&error);
                let expected = format!("takes a program of version {oldest} or later");
                assert!(said.contains(&expected), "{said}");
                assert!(!ca.folder.path().join("unusable").exists());
            }
            (_, restored) => panic!("{oldest}: {restored:?}"),
        }
        fs::remove_dir_all(later).unwrap();
    }
}

/// A backup with these files, whoever has made it.
fn sealed(manifest: &Manifest, directory: &Path) -> Vec<u8> {
    let mut archive = Builder::new(Sealing::begin(Vec::new(), &passphrase()).unwrap());
    let mut add = |name: &str, bytes: &[u8]| {
        append(&mut archive, name, bytes.len() as u64, bytes).unwrap();
    };
    add(MANIFEST, &serde_json::to_vec(manifest).unwrap());
    for entry in fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if files::is_ours(&name) {
            add(&name, &fs::read(directory.join(&name)).unwrap());
        }
    }
    archive.into_inner().unwrap().finish().unwrap()
}
