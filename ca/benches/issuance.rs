//! Certificates per second, each recorded durably before it counts: `cargo bench -p ca --bench issuance`.
//!
//! 64 callers ask at once for five seconds, on a temporary directory, so the disk under it is part of the number.

use ca::config::{InitOptions, KeyProtection, OpenOptions};
use ca::csr::PublicKey;
use ca::{Authority, Request, Requester};
use identity::{SpiffeId, TrustDomain};
use rcgen::{KeyPair, PublicKeyData};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CALLERS: usize = 64;
const RUN: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let temporary = tempfile::tempdir()?;
    let directory = temporary.path().join("ca");
    let domain = TrustDomain::parse("bench.test")?;
    ca::init(
        &directory,
        &InitOptions::new(domain, KeyProtection::InsecurePlaintext),
    )?;
    let authority = Arc::new(Authority::open(&directory, &OpenOptions::default())?);
    let request = Request {
        id: SpiffeId::parse("spiffe://bench.test/ns/shop/sa/orders")?,
        public_key: PublicKey::from_spki(&KeyPair::generate()?.subject_public_key_info())?,
        ttl: None,
        requester: Requester::Operator,
    };

    let start = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (authority, request) = (Arc::clone(&authority), request.clone());
        callers.spawn(async move {
            let mut issued = 0_u32;
            while start.elapsed() < RUN {
                authority.issue(request.clone()).await?;
                issued += 1;
            }
            Ok::<_, ca::authority::IssueError>(issued)
        });
    }
    let mut total = 0;
    while let Some(issued) = callers.join_next().await {
        total += issued??;
    }
    let rate = f64::from(total) / start.elapsed().as_secs_f64();
    println!("issuance: {total} certificates by {CALLERS} callers, {rate:.0} per second");
    println!("{}", ca::ledger::verify(&directory)?);
    Ok(())
}
