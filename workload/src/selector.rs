//! What an operator can require of a caller: its user, its group, the program it runs and that of its parent.

use crate::caller::{Caller, Look};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// One requirement. Written as SPIRE writes it, such as `unix:uid:1000`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Selector {
    /// `unix:uid:1000`: the user that connected.
    Uid(u32),
    /// `unix:gid:1000`: its primary group when it connected.
    Gid(u32),
    /// `unix:path:/usr/bin/app`: the program it runs. In a container that is a path of the container's own making.
    Path(PathBuf),
    /// `unix:sha256:<64 hexadecimal digits>`: the contents of that program.
    Sha256([u8; 32]),
    /// `unix:parent-path:/usr/bin/supervisor`: the program that its parent runs.
    ParentPath(PathBuf),
}

impl Selector {
    /// Whether it holds for `caller`. What is not known of a caller is not true of it.
    pub(crate) fn selects(&self, caller: &Caller) -> bool {
        let process = caller.process.as_ref();
        match self {
            Self::Uid(uid) => caller.uid == *uid,
            Self::Gid(gid) => caller.gid == *gid,
            Self::Path(path) => process.is_some_and(|process| process.path == *path),
            Self::Sha256(digest) => process.is_some_and(|process| process.sha256 == Some(*digest)),
            Self::ParentPath(path) => {
                process.is_some_and(|process| process.parent.as_ref() == Some(path))
            }
        }
    }

    /// What has to be looked at to tell.
    pub(crate) fn looks_at(&self) -> Look {
        match self {
            Self::Uid(_) | Self::Gid(_) => Look::User,
            Self::Path(_) | Self::ParentPath(_) => Look::Program,
            Self::Sha256(_) => Look::Contents,
        }
    }
}

impl FromStr for Selector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, ParseSelectorError> {
        let fail = || ParseSelectorError {
            found: text.to_owned(),
        };
        let rest = text.strip_prefix("unix:").ok_or_else(fail)?;
        let (kind, value) = rest.split_once(':').ok_or_else(fail)?;
        let number = || value.parse().map_err(|_| fail());
        let path = || match PathBuf::from(value) {
            path if path.is_absolute() => Ok(path),
            _ => Err(fail()),
        };
        match kind {
            "uid" => number().map(Self::Uid),
            "gid" => number().map(Self::Gid),
            "path" => path().map(Self::Path),
            "sha256" => digest(value).map(Self::Sha256).ok_or_else(fail),
            "parent-path" => path().map(Self::ParentPath),
            _ => Err(fail()),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "unix:uid:{uid}"),
            Self::Gid(gid) => write!(f, "unix:gid:{gid}"),
            Self::Path(path) => write!(f, "unix:path:{}", path.display()),
            Self::Sha256(digest) => {
                f.write_str("unix:sha256:")?;
                digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::ParentPath(path) => write!(f, "unix:parent-path:{}", path.display()),
        }
    }
}

/// 64 digits, in lower case: one way to write it, so that equal selectors are equal texts.
fn digest(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != 64 || !digits.iter().all(is_digit) {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

/// Not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected unix:uid:N, unix:gid:N, unix:path:/FILE, unix:sha256:HEX or unix:parent-path:/FILE, found {found:?}"
)]
pub struct ParseSelectorError {
    found: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::{Inode, Process};

    fn caller(process: Option<Process>) -> Caller {
        Caller {
            uid: 1000,
            gid: 100,
            process,
        }
    }

    #[test]
    fn selectors_are_read_as_they_are_written() {
        let digest = "ab".repeat(32);
        for text in [
            "unix:uid:0",
            "unix:gid:100",
            "unix:path:/usr/bin/app:v2",
            &format!("unix:sha256:{digest}"),
            "unix:parent-path:/usr/bin/supervisor",
        ] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(selector.to_string(), text);
        }
        for text in [
            "",
            "unix",
            "uid:0",
            "unix:uid:",
            "unix:uid:-1",
            "unix:uid:4294967296",
            "unix:user:root",
            "unix:path:usr/bin/app",
            "unix:sha256:ab",
            &format!("unix:sha256:{}", "AB".repeat(32)),
            "k8s:ns:shop",
        ] {
            assert!(text.parse::<Selector>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_known_of_a_caller_is_not_true_of_it() {
        let process = Process {
            path: "/usr/bin/app".into(),
            inode: Inode {
                device: 1,
                number: 1,
            },
            sha256: Some([0xab; 32]),
            parent: Some("/usr/bin/supervisor".into()),
        };
        let blank = Process {
            sha256: None,
            parent: None,
            ..process.clone()
        };
        let digest = "ab".repeat(32);
        for (text, whole, without, unknown) in [
            ("unix:uid:1000", true, true, true),
            ("unix:uid:100", false, false, false),
            ("unix:gid:100", true, true, true),
            ("unix:path:/usr/bin/app", true, true, false),
            ("unix:path:/usr/bin/app2", false, false, false),
            (&format!("unix:sha256:{digest}"), true, false, false),
            ("unix:parent-path:/usr/bin/supervisor", true, false, false),
        ] {
            let selector: Selector = text.parse().unwrap();
            let of = |process: Option<&Process>| selector.selects(&caller(process.cloned()));
            assert_eq!(of(Some(&process)), whole, "{text}");
            assert_eq!(of(Some(&blank)), without, "{text}");
            assert_eq!(of(None), unknown, "{text}");
        }
    }
}
