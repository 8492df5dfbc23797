use super::*;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};

/// A process that connects to the socket it is given and waits until its input ends.
struct Connecting {
    child: Child,
    stream: UnixStream,
}

impl Connecting {
    fn start(folder: &std::path::Path) -> Self {
        let path = folder.join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let script = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nsys.stdin.read()";
        let child = Command::new("python3")
            .args(["-c", script, path.to_str().unwrap()])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let stream = UnixStream::from_std(stream).unwrap();
        Self { child, stream }
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn a_caller_is_known_by_its_user_its_program_and_its_parents() {
    let folder = tempfile::tempdir().unwrap();
    let connecting = Connecting::start(folder.path());
    let peer = Peer::of(&connecting.stream).unwrap();
    assert_eq!(peer.pid, i32::try_from(connecting.child.id()).ok());
    let seen = peer.attest(None).unwrap().process.unwrap();
    assert_eq!(seen.sha256, None);
    let caller = peer.attest(Some(&Digests::default())).unwrap();
    assert_eq!(caller.uid, rustix::process::geteuid().as_raw());
    let process = caller.process.unwrap();
    let program = std::fs::read_link(format!("/proc/{}/exe", connecting.child.id())).unwrap();
    assert_eq!(process.path, program);
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        &std::fs::read(&program).unwrap(),
    );
    assert_eq!(process.sha256.unwrap(), digest.as_ref());
    assert_eq!(process.parent, std::env::current_exe().ok());
    connecting.end();
}

/// Whoever has the same process number next would have been taken for it.
#[tokio::test]
async fn nothing_is_said_of_a_process_that_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mut connecting = Connecting::start(folder.path());
    let mut peer = Peer::of(&connecting.stream).unwrap();
    drop(connecting.child.stdin.take());
    connecting.child.wait().unwrap();
    let seen = peer.attest(Some(&Digests::default())).unwrap();
    assert_eq!(seen.process, None);
    // As if its number were given out again, to this very process.
    peer.pid = i32::try_from(std::process::id()).ok();
    let seen = peer.attest(Some(&Digests::default())).unwrap();
    assert_eq!(seen.process, None);
}

#[test]
fn only_a_kernel_without_handles_is_asked_by_number() {
    let own = i32::try_from(std::process::id()).ok();
    let asked = |errno| or_by_number(Err(errno), own);
    assert!(asked(Errno::ENOPROTOOPT).unwrap().is_some());
    for gone in [Errno::ESRCH, Errno::EINVAL, Errno::ENODATA] {
        assert!(asked(gone).unwrap().is_none(), "{gone}");
    }
    for full in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM] {
        assert!(asked(full).is_err(), "{full}");
    }
}
