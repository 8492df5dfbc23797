//! A CA as a process that goes away and comes back at the same place.

use crate::process::{Process, free_address, tipstaff, wait_for};
use crate::{DOMAIN, Failure, PATIENCE};
use ca::store::{Store, TokenGrant};
use ca::token::JoinToken;
use identity::{SpiffeId, TrustBundle, TrustDomain};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;
use zeroize::Zeroizing;

const CONNECTIONS: &str = "tipstaff_ca_connections_total ";
/// Between one look at the counter and the next.
const LOOK: Duration = Duration::from_millis(100);

pub(crate) struct Authority {
    pub(crate) folder: TempDir,
    pub(crate) bundle: TrustBundle,
    pub(crate) listen: SocketAddr,
    admin: SocketAddr,
    store: Store,
    process: Option<Process>,
}

impl Authority {
    pub(crate) async fn start() -> Result<Self, Failure> {
        let folder = TempDir::new()?;
        let dir = folder.path().join("ca");
        let place = dir.display().to_string();
        tipstaff(&["ca", "init", "--dir", &place, "--trust-domain", DOMAIN]).await?;
        let bundle = std::fs::read(dir.join("ca-bundle.pem"))?;
        let mut authority = Self {
            bundle: TrustBundle::from_pem(TrustDomain::parse(DOMAIN)?, &bundle, 0)?,
            store: Store::open(dir.as_path())?,
            folder,
            listen: free_address()?,
            admin: free_address()?,
            process: None,
        };
        authority.serve().await?;
        Ok(authority)
    }

    /// Gives when it began to listen.
    pub(crate) async fn serve(&mut self) -> Result<Instant, Failure> {
        let dir = self.directory().display().to_string();
        let (listen, admin) = (self.listen.to_string(), self.admin.to_string());
        let serve = ["ca", "serve", "--dir", &dir, "--listen", &listen];
        let arguments = [&serve[..], &["--admin-listen", &admin]].concat();
        let log = self.folder.path().join("ca.log");
        self.process = Some(Process::start(&arguments, &log)?);
        wait_for(|| std::net::TcpStream::connect(self.listen).is_ok()).await?;
        let listens = Instant::now();
        wait_for(|| std::net::TcpStream::connect(self.admin).is_ok()).await?;
        Ok(listens)
    }

    /// kill -9.
    pub(crate) fn stop(&mut self) {
        self.process = None;
    }

    /// So far, and what is resident.
    pub(crate) fn costs(&self) -> Result<(Duration, u64), Failure> {
        let process = self.process.as_ref().ok_or("expected a CA that runs")?;
        Ok((process.cpu()?, process.memory_kib()?))
    }

    pub(crate) async fn token(&self, id: &SpiffeId) -> Result<Zeroizing<String>, Failure> {
        let (token, now) = (JoinToken::generate(), SystemTime::now());
        let grant = TokenGrant {
            spiffe_id: id.clone(),
            created_at: now,
            expires_at: now + 2 * PATIENCE,
            ttl: None,
        };
        self.store.create_token(&token, grant).await?;
        Ok(token.reveal())
    }

    /// The most connections that it accepted within a second, until `until`; whatever they were for.
    pub(crate) async fn busiest_second(admin: SocketAddr, until: Instant) -> Result<u64, Failure> {
        let (mut seen, mut most): (Vec<(Instant, u64)>, _) = (Vec::new(), 0);
        while Instant::now() < until {
            let now = (Instant::now(), connections(admin).await?);
            seen.push(now);
            seen.retain(|(at, _)| now.0 - *at <= Duration::from_secs(1));
            most = most.max(now.1 - seen.first().map_or(0, |first| first.1));
            sleep(LOOK).await;
        }
        Ok(most)
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    fn directory(&self) -> PathBuf {
        self.folder.path().join("ca")
    }
}

async fn connections(admin: SocketAddr) -> Result<u64, Failure> {
    let mut socket = TcpStream::connect(admin).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    let mut lines = answer.lines();
    let number = lines.find_map(|line| line.strip_prefix(CONNECTIONS));
    Ok(number
        .ok_or("expected the counter of connections")?
        .parse()?)
}
