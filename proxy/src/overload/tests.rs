use super::*;
use std::fs;
use tempfile::TempDir;

const MIB: u64 = 1024 * 1024;

/// A file system with these files and nothing else.
fn root(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

fn found(configured: Option<u64>, root: &TempDir) -> Option<Reading> {
    let memory = Memory::find(configured, root.path()).unwrap();
    memory.map(|memory| memory.read().unwrap())
}

#[test]
fn level_falls_only_well_below_where_it_rose() {
    let mut level = Level::Normal;
    for (percent, expected) in [
        (94, Level::Normal),
        (95, Level::Shedding),
        (91, Level::Shedding),
        (97, Level::Shedding),
        (98, Level::Closed),
        (95, Level::Closed),
        (94, Level::Shedding),
        (90, Level::Shedding),
        (89, Level::Normal),
        (100, Level::Closed),
        (0, Level::Normal),
    ] {
        level = level.next(percent);
        assert_eq!(level, expected, "at {percent} %");
    }
}

#[test]
fn configured_limit_is_held_against_resident_memory() {
    let root = root(&[(
        "proc/self/status",
        "Name:\ttipstaff\nVmHWM:\t  9999 kB\nVmRSS:\t   2048 kB\n",
    )]);
    let expected = Reading {
        used: 2 * MIB,
        limit: 64 * MIB,
    };
    assert_eq!(found(Some(64 * MIB), &root), Some(expected));
}

#[test]
fn own_process_can_be_read() {
    let memory = Memory::find(Some(MIB), Path::new("/")).unwrap().unwrap();
    assert!(memory.read().unwrap().used > MIB);
}

#[test]
fn cgroup_of_either_version_is_read_without_its_page_cache() {
    let v2 = root(&[
        ("proc/self/cgroup", "0::/pod/sidecar\n"),
        ("sys/fs/cgroup/pod/memory.max", "max\n"),
        ("sys/fs/cgroup/pod/sidecar/memory.max", "1000\n"),
        ("sys/fs/cgroup/pod/sidecar/memory.current", "700\n"),
        (
            "sys/fs/cgroup/pod/sidecar/memory.stat",
            "anon 500\ninactive_file 150\n",
        ),
    ]);
    let v1 = root(&[
        (
            "proc/self/cgroup",
            "5:cpu,cpuacct:/x\n4:memory:/pod/sidecar\n0::/\n",
        ),
        (
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        ),
        (
            "sys/fs/cgroup/memory/pod/sidecar/memory.limit_in_bytes",
            "1000\n",
        ),
        (
            "sys/fs/cgroup/memory/pod/sidecar/memory.usage_in_bytes",
            "700\n",
        ),
        (
            "sys/fs/cgroup/memory/pod/sidecar/memory.stat",
            "inactive_file 1\ntotal_inactive_file 150\n",
        ),
    ]);
    for root in [v2, v1] {
        let expected = Reading {
            used: 550,
            limit: 1000,
        };
        assert_eq!(found(None, &root), Some(expected));
    }
}

/// In a container without a cgroup namespace the path is the host's, and only the container's own cgroup is mounted.
#[test]
fn smallest_limit_on_the_way_up_counts() {
    let mount = "sys/fs/cgroup";
    let root = root(&[
        ("proc/self/cgroup", "0::/host/pod/sidecar\n"),
        (&format!("{mount}/memory.max"), "1000\n"),
        (&format!("{mount}/memory.current"), "10\n"),
        (&format!("{mount}/memory.stat"), "inactive_file 0\n"),
        (&format!("{mount}/host/memory.max"), "5000\n"),
    ]);
    let expected = Reading {
        used: 10,
        limit: 1000,
    };
    assert_eq!(found(None, &root), Some(expected));
}

#[test]
fn nothing_is_watched_where_no_limit_is_set() {
    let without = [
        root(&[]),
        root(&[("proc/self/cgroup", "0::/a\n5:cpu:/a\n")]),
        root(&[
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "max\n"),
        ]),
    ];
    for root in &without {
        assert_eq!(found(None, root), None);
    }
}

#[test]
fn limit_that_cannot_be_watched_is_an_error() {
    let unreadable = [
        root(&[
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "many\n"),
        ]),
        root(&[
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "1000\n"),
        ]),
    ];
    for root in &unreadable {
        assert!(Memory::find(None, root.path()).is_err());
    }
    assert!(Memory::find(Some(MIB), root(&[]).path()).is_err());
}

#[test]
fn requests_then_connections_are_refused_as_memory_fills_and_taken_again() {
    let status = "proc/self/status";
    let root = root(&[(status, "VmRSS: 0 kB\n")]);
    let memory = Memory::find(Some(MIB), root.path()).unwrap();
    let overload = Overload::over(memory, Metrics::new());
    let mut teller = Teller::default();
    let mut at = |used: &str| {
        fs::write(root.path().join(status), format!("VmRSS: {used} kB\n")).unwrap();
        overload.look(&mut teller);
        (
            overload.level() == Level::Normal,
            overload.takes_connections(),
        )
    };
    assert_eq!(at("900"), (true, true));
    assert_eq!(at("980"), (false, true));
    assert_eq!(at("1020"), (false, false));
    // The file says nothing: what was true stays true.
    assert_eq!(at("?"), (false, false));
    assert_eq!(at("940"), (false, true));
    assert_eq!(at("100"), (true, true));
}
