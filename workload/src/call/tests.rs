use super::*;
use crate::holdings::{Entitled, FederatesWith, Identity};
use crate::sampler::Sampler;
use crate::server::Tasks;
use futures_util::StreamExt;
use identity::{SpiffeId, TrustBundle, TrustDomain};
use std::io::Write;
use std::pin::pin;
use std::process::{Child, ChildStdin, Command, Stdio};
use tonic::Code;

/// A shell that becomes another program at the first line it reads.
struct Shell(Child, ChildStdin);

impl Shell {
    fn start() -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "read line; exec sleep 60"]);
        let shell = Self::spawn(command);
        shell.program_ends_with("sh");
        shell
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        Self(child, input)
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

/// The calls of `peer` on a socket with an identity for each of `entries`, `/0` for whoever the first's selectors select.
fn calls(peer: Peer, entries: &[&[String]]) -> (watch::Sender<Arc<Holdings>>, Calls) {
    let identities = entries.iter().enumerate().map(|(number, selectors)| {
        let selectors = selectors.iter().map(|text| text.parse().unwrap());
        Identity {
            id: SpiffeId::parse(&format!("spiffe://a.test/{number}")).unwrap(),
            svid: None,
            hint: String::new(),
            tokens: tokio::sync::mpsc::channel(1).0,
            entitled: Entitled::Selected(selectors.collect()),
            federates_with: FederatesWith::All,
        }
    });
    let (sender, holdings) = watch::channel(Arc::new(Holdings {
        identities: identities.collect(),
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

/// What a stream is sent next when there is news for it.
async fn again(entitlement: &mut Entitlement) -> Result<View, Status> {
    let view = entitlement.view_again(|_| true).await?;
    Ok(view.expect("there is news"))
}

/// It went on being sent the keys of what it had been.
#[tokio::test]
async fn a_program_that_is_executed_during_a_stream_gets_what_is_its_own() {
    let mut shell = Shell::start();
    let path = shell.program_ends_with("sh");
    let peer = Peer::of_process(shell.0.id()).unwrap();
    let (_holdings, calls) = calls(peer, &[&[format!("unix:path:{path}")]]);
    let mut entitlement = calls.authenticate().await.unwrap();
    assert!(again(&mut entitlement).await.is_ok());
    shell.exec();
    let refused = again(&mut entitlement).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_stream_whose_process_has_ended_gets_nothing_more() {
    let shell = Shell::start();
    let path = shell.program_ends_with("sh");
    let peer = Peer::of_process(shell.0.id()).unwrap();
    let (_holdings, calls) = calls(peer, &[&[format!("unix:path:{path}")]]);
    let mut entitlement = calls.authenticate().await.unwrap();
    drop(shell);
    let refused = again(&mut entitlement).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

/// Who is entitled by user alone keeps its stream whatever it executes: nothing else was asked of it.
#[tokio::test]
async fn a_user_is_not_looked_at_again() {
    let mut shell = Shell::start();
    let peer = Peer::of_process(shell.0.id()).unwrap();
    let uid = format!("unix:uid:{}", peer.uid);
    let (_holdings, calls) = calls(peer, &[&[uid]]);
    let mut entitlement = calls.authenticate().await.unwrap();
    shell.exec();
    assert!(again(&mut entitlement).await.is_ok());
    assert_eq!(entitlement.caller.process, None, "it was not looked at");
}

/// Whoever has what was not asked of it at first: its entry was not looked for, and it was refused.
#[tokio::test]
async fn a_program_that_is_executed_is_looked_at_as_far_as_its_own_entry_requires() {
    let mut shell = Shell::start();
    let first = format!("unix:path:{}", shell.program_ends_with("sh"));
    let peer = Peer::of_process(shell.0.id()).unwrap();
    let mut command = Command::new("sleep");
    command.arg("60");
    let path = Shell::spawn(command).program_ends_with("sleep");
    let digest =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &std::fs::read(&path).unwrap());
    let hex: String = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let second = [format!("unix:path:{path}"), format!("unix:sha256:{hex}")];
    let (_holdings, calls) = calls(peer, &[&[first], &second]);
    let mut entitlement = calls.authenticate().await.unwrap();
    assert_eq!(entitlement.seen, Look::Program);
    shell.exec();
    let view = again(&mut entitlement).await.unwrap();
    let ids: Vec<_> = view
        .identities
        .iter()
        .map(|named| named.id.as_str())
        .collect();
    assert_eq!(ids, ["spiffe://a.test/1"]);
}

/// It was refused at the next rotation.
#[tokio::test]
async fn a_program_that_is_replaced_while_it_runs_keeps_its_identity() {
    let folder = tempfile::tempdir().unwrap();
    let app = folder.path().canonicalize().unwrap().join("app");
    let shell = Shell::start();
    std::fs::copy(shell.program_ends_with("sh"), &app).unwrap();
    let mut command = Command::new(&app);
    command.args(["-c", "read line"]);
    let running = Shell::spawn(command);
    running.program_ends_with("app");
    let peer = Peer::of_process(running.0.id()).unwrap();
    let selector = format!("unix:path:{}", app.display());
    let (_holdings, calls) = calls(peer, &[&[selector]]);
    let mut entitlement = calls.authenticate().await.unwrap();
    let next = folder.path().join("next");
    std::fs::write(&next, "another").unwrap();
    std::fs::rename(next, &app).unwrap();
    running.program_ends_with(" (deleted)");
    assert!(again(&mut entitlement).await.is_ok());
    assert!(calls.authenticate().await.is_ok(), "with its next call");
    // Whoever is first seen now is not known to have run what was there.
    let another = Peer::of_process(running.0.id()).unwrap();
    let calls = Calls::new(
        calls.0.service.clone(),
        (another, calls.0.shared.clone()),
        true,
        CancellationToken::new(),
    );
    let refused = calls.authenticate().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

/// Each rotation of any identity had the caller of every stream looked at.
#[tokio::test]
async fn a_stream_without_news_does_not_have_its_caller_looked_at() {
    let shell = Shell::start();
    let path = shell.program_ends_with("sh");
    let peer = Peer::of_process(shell.0.id()).unwrap();
    let (holdings, calls) = calls(peer, &[&[format!("unix:path:{path}")]]);
    let mut entitlement = calls.authenticate().await.unwrap();
    let first = entitlement.view().unwrap();
    let mut stream = pin!(entitlement.follow(first, View::has_same_bundles, |_| ()));
    assert!(stream.next().await.unwrap().is_ok());
    calls.0.shared.looks.close();
    holdings.send_modify(|_| {});
    // It ends with the holdings, and with nothing before that: a look fails by now.
    drop(holdings);
    assert!(stream.next().await.is_none());
}
