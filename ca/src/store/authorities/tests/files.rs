//! The CA's directory stays what it was before the first rotation, but for the trust bundle.

use super::*;
use crate::directory::{BUNDLE, DATABASE};
use crate::inspect;

const UNCHANGED: [&str; 4] = [
    "root.pem",
    "root.key",
    "intermediate.pem",
    "intermediate.key",
];

#[tokio::test]
async fn a_database_from_before_the_first_rotation_finds_its_keys_in_the_directory() {
    let ca = Ca::new(KeyProtection::Encrypted(passphrase()));
    let read = |name: &str| fs::read(ca.dir.join(name)).unwrap();
    let files = || UNCHANGED.map(read);
    let (before, bundle, issuer) = (files(), read(BUNDLE), ca.issuer().await);
    let backup = ca.dir.join("before.db");
    ca.edit(&format!("VACUUM INTO '{}'", backup.display()));
    for role in [Role::Intermediate, Role::Root] {
        ca.prepare(role).await.unwrap();
        ca.activate(role).await.unwrap();
        assert!(ca.authority.read_authorities().await);
    }
    assert_eq!(files(), before);
    assert_ne!(read(BUNDLE), bundle);

    let Ca {
        _folder,
        dir,
        options,
        authority,
    } = ca;
    drop(authority);
    for gone in ["-wal", "-shm"] {
        fs::remove_file(dir.join(format!("{DATABASE}{gone}"))).ok();
    }
    fs::rename(backup, dir.join(DATABASE)).unwrap();
    let authority = Arc::new(Authority::open(&dir, &options).unwrap());
    let restored = Ca {
        _folder,
        dir,
        options,
        authority,
    };
    assert_eq!(restored.issuer().await, issuer);
}

#[tokio::test]
async fn what_is_inspected_is_what_signs() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    let seen = || {
        let overview = inspect::overview(&ca.dir, &ca.dir, SystemTime::now()).unwrap();
        (overview.root.sha256, overview.intermediate.sha256)
    };
    let (root, first) = seen();
    ca.prepare(Role::Intermediate).await.unwrap();
    assert_eq!(seen(), (root.clone(), first.clone()), "it is only prepared");
    ca.activate(Role::Intermediate).await.unwrap();
    let (same, second) = seen();
    assert!(same == root && second != first);
    ca.prepare(Role::Root).await.unwrap();
    ca.activate(Role::Root).await.unwrap();
    let (next, third) = seen();
    assert!(next != root && third != second);
}
