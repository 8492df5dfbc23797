use super::*;
use crate::holdings::{Entitled, FederatesWith, Identity};
use crate::sampler::Sampler;
use crate::server::Tasks;
use identity::{SpiffeId, TrustBundle, TrustDomain};
use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};
use tonic::Code;

/// A shell that becomes another program at the first line it reads.
struct Shell(Child, ChildStdin);

impl Shell {
    fn start() -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "read line; exec sleep 60"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let shell = Self(child, input);
        shell.program_ends_with("sh");
        shell
    }

    fn exec(&mut self) {
        self.1.write_all(b"now\n").unwrap();
        self.program_ends_with("sleep");
    }

    /// Waits for that, and gives the path. Whoever has just been forked still runs what its parent does; names differ by what
    /// the shell is a link to.
    fn program_ends_with(&self, name: &str) -> String {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let path = std::fs::read_link(format!("/proc/{}/exe", self.0.id())).unwrap();
            let path = path.to_str().unwrap().to_owned();
            if path.ends_with(name) {
                return path;
            }
            assert!(std::time::Instant::now() < deadline, "it runs {path}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn own() -> Arc<TrustBundle> {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&key).unwrap().der().clone();
    let domain = TrustDomain::parse("a.test").unwrap();
    Arc::new(TrustBundle::new(domain, vec![root], 1).unwrap())
}

/// The calls of `peer` on a socket with one identity, for whoever `selectors` select.
fn calls(peer: Peer, selectors: &[String]) -> (watch::Sender<Arc<Holdings>>, Calls) {
    let selectors = selectors.iter().map(|text| text.parse().unwrap());
    let identity = Identity {
        id: SpiffeId::parse("spiffe://a.test/web").unwrap(),
        svid: None,
        hint: String::new(),
        tokens: tokio::sync::mpsc::channel(1).0,
        entitled: Entitled::Selected(selectors.collect()),
        federates_with: FederatesWith::All,
    };
    let (sender, holdings) = watch::channel(Arc::new(Holdings {
        identities: vec![identity],
        own: own(),
        federated: Vec::new(),
    }));
    let service = Service {
        holdings,
        digests: Arc::default(),
        tasks: Tasks::default(),
        lines: Arc::new(Sampler::default()),
    };
    let shared = Shared {
        looks: Arc::new(Semaphore::new(1)),
        room: Arc::new(Semaphore::new(1)),
    };
    let calls = Calls::new(service, (peer, shared), true, CancellationToken::new());
    (sender, calls)
}

/// It went on being sent the keys of what it had been.
#[tokio::test]
async fn a_program_that_is_executed_during_a_stream_gets_what_is_its_own() {
    let mut shell = Shell::start();
    let path = shell.program_ends_with("sh");
    let peer = Peer::of_process(shell.0.id()).unwrap();
    let (_holdings, calls) = calls(peer, &[format!("unix:path:{path}")]);
    let mut entitlement = calls.authenticate().await.unwrap();
    assert!(entitlement.view_again().await.is_ok());
    shell.exec();
    let refused = entitlement.view_again().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_stream_whose_process_has_ended_gets_nothing_more() {
    let shell = Shell::start();
    let path = shell.program_ends_with("sh");
    let peer = Peer::of_process(shell.0.id()).unwrap();
    let (_holdings, calls) = calls(peer, &[format!("unix:path:{path}")]);
    let mut entitlement = calls.authenticate().await.unwrap();
    drop(shell);
    let refused = entitlement.view_again().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

/// Who is entitled by user alone keeps its stream whatever it executes: nothing else was asked of it.
#[tokio::test]
async fn a_user_is_not_looked_at_again() {
    let mut shell = Shell::start();
    let peer = Peer::of_process(shell.0.id()).unwrap();
    let uid = format!("unix:uid:{}", peer.uid);
    let (_holdings, calls) = calls(peer, &[uid]);
    let mut entitlement = calls.authenticate().await.unwrap();
    shell.exec();
    assert!(entitlement.view_again().await.is_ok());
}
