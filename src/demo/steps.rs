//! What the demo shows. Each step says what it does, shows the evidence, and fails if it was not so.

use super::client::{Call, Reply};
use super::documents::{CANCEL_GRANT, ORDERS, TRUST_DOMAIN, TTL};
use super::mesh::{Mesh, Ports};
use super::processes::until;
use super::{Narrator, load};
use anyhow::{Context, ensure};
use hyper::{Method, StatusCode};
use rustls::AlertDescription;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const ORDER: &str = "/api/v1/orders/42";

/// What the policy grants at once before its rate counts.
const BURST: usize = 3;

/// How often identities are rotated under load, and how many requests a second the load makes.
const ROTATE_EVERY: Duration = Duration::from_secs(2);
const LOAD_PER_SECOND: u32 = 500;

pub(super) async fn all(mesh: &mut Mesh, say: &mut Narrator, load_for: Duration) {
    say.step(
        "The storefront reads an order: granted, so it passes through both sidecars over mTLS",
    );
    let outcome = allowed(mesh, say).await;
    say.verdict(outcome);

    say.step("The storefront tries to delete the order: no grant names that method");
    let outcome = refused(mesh, say, &mesh.storefront.call(Method::DELETE, ORDER)).await;
    say.verdict(outcome);

    say.step("The storefront asks for a path no grant names, then for the same one in disguise");
    let outcome = denied_path(mesh, say).await;
    say.verdict(outcome);

    say.step("A stranger without a certificate knocks at the orders sidecar");
    let outcome = stranger(mesh, say).await;
    say.verdict(outcome);

    say.step("The newsletter has a good certificate, but nobody granted it anything here");
    let outcome = refused(mesh, say, &mesh.newsletter.call(Method::GET, ORDER)).await;
    say.verdict(outcome);

    say.step("The storefront places orders faster than its limit of 1 a second (3 at once)");
    let outcome = limited(mesh, say).await;
    say.verdict(outcome);

    say.step(
        "The policy changes while everything runs: cancelling orders is granted, then withdrawn",
    );
    let outcome = live_policy_change(mesh, say).await;
    say.verdict(outcome);

    say.step("Both identities rotate every two seconds under load");
    let outcome = rotation_under_load(mesh, say, load_for).await;
    say.verdict(outcome);

    say.step("The CA goes away, and comes back");
    let outcome = ca_outage(mesh, say).await;
    say.verdict(outcome);
}

async fn allowed(mesh: &Mesh, say: &Narrator) -> anyhow::Result<String> {
    let reply = send(say, &mesh.storefront.call(Method::GET, ORDER)).await?;
    expect(&reply, StatusCode::OK)?;
    let (client, server) = (
        identity_of(&mesh.storefront).await?,
        identity_of(&mesh.orders).await?,
    );
    say.evidence(&format!("caller  {client}\ncallee  {server}"));
    ensure!(
        reply.body.contains("sa/storefront"),
        "the app was not told who called: {}",
        reply.body
    );
    Ok("the app got the request and the caller's identity from its sidecar".into())
}

async fn refused(mesh: &Mesh, say: &Narrator, call: &Call<'_>) -> anyhow::Result<String> {
    let reply = send(say, call).await?;
    expect(&reply, StatusCode::FORBIDDEN)?;
    let decision = reply
        .header("tipstaff-decision-id")
        .context("expected a decision id with the refusal")?;
    let log = mesh.folder.join("orders.log");
    say.command(&format!("grep {decision} {}", log.display()));
    say.evidence(&line_with(&log, decision).await?);
    Ok(
        "403; the caller learns no more than an id, by which the sidecar's log tells the rest"
            .into(),
    )
}

/// The line of a log that holds `text`; logs are written a moment late.
async fn line_with(log: &Path, text: &str) -> anyhow::Result<String> {
    let find = || {
        let log = std::fs::read_to_string(log).unwrap_or_default();
        log.lines()
            .find(|line| line.contains(text))
            .map(str::to_owned)
    };
    until(Duration::from_secs(5), || async { find().is_some() }).await;
    find().with_context(|| format!("expected {text} in {}", log.display()))
}

async fn denied_path(mesh: &Mesh, say: &Narrator) -> anyhow::Result<String> {
    refused(mesh, say, &mesh.storefront.call(Method::GET, "/admin")).await?;
    let disguised = send(
        say,
        &mesh
            .storefront
            .call(Method::GET, "/api/v1/orders/%2e%2e/admin"),
    )
    .await?;
    expect(&disguised, StatusCode::BAD_REQUEST)?;
    Ok(
        "403 for the plain path; 400 for the ambiguous one, which is rejected rather than repaired"
            .into(),
    )
}

async fn stranger(mesh: &Mesh, say: &Narrator) -> anyhow::Result<String> {
    let to = mesh.orders.inbound;
    say.command(&format!("curl -ik https://{to}{ORDER}"));
    let config = rustls::ClientConfig::builder_with_provider(identity::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("choosing TLS 1.3")?
        .dangerous()
        .with_custom_certificate_verifier(identity::tls::server_verifier(
            Arc::new(Arc::new(bundle(mesh)?)),
            ORDERS.parse()?,
        ))
        .with_no_client_auth();
    let stream = TcpStream::connect(to)
        .await
        .with_context(|| format!("connecting to {to}"))?;
    let refusal = handshake(config, stream).await?;
    say.evidence(&format!("-> {refusal}"));
    ensure!(
        refusal == rustls::Error::AlertReceived(AlertDescription::CertificateRequired),
        "expected the sidecar to insist on a certificate"
    );
    Ok("the handshake fails; not a byte of HTTP was read".into())
}

async fn limited(mesh: &Mesh, say: &Narrator) -> anyhow::Result<String> {
    let call = mesh.storefront.call(Method::POST, "/api/v1/orders");
    say.command(&format!(
        "for i in 1 2 3 4 5 6; do {}; done",
        call.as_curl()
    ));
    let mut statuses = Vec::new();
    let mut refusal = None;
    for _ in 0..6 {
        let reply = call.send().await?;
        statuses.push(reply.status.as_u16());
        if reply.status == StatusCode::TOO_MANY_REQUESTS {
            refusal = Some(reply);
        }
    }
    say.evidence(&format!("-> {statuses:?}"));
    let refusal = refusal.context("expected at least one 429")?;
    for name in ["retry-after", "ratelimit-policy", "ratelimit"] {
        let value = refusal
            .header(name)
            .with_context(|| format!("expected {name} with the 429"))?;
        say.evidence(&format!("{name}: {value}"));
    }
    ensure!(
        statuses[..BURST] == [200; BURST],
        "expected the first {BURST} orders to pass"
    );
    ensure!(
        statuses.iter().all(|status| [200, 429].contains(status)),
        "expected nothing but 200 and 429"
    );
    Ok(format!(
        "{BURST} passed at once; then an order a second, and the caller is told when to come back"
    ))
}

async fn live_policy_change(mesh: &Mesh, say: &Narrator) -> anyhow::Result<String> {
    let call = mesh.storefront.call(Method::DELETE, ORDER);
    let patience = Duration::from_secs(10);
    let path = mesh.folder.write("policy/cancel.yaml", CANCEL_GRANT)?;
    say.command(&format!(
        "cat > {} <<EOF ... a grant for DELETE ... EOF",
        path.display()
    ));
    let granted = until(patience, || answers(&call, StatusCode::OK))
        .await
        .context("the new grant did not take effect")?;
    say.evidence(&format!("-> 200 after {granted:.1?}"));
    std::fs::remove_file(&path).context("withdrawing the grant")?;
    say.command(&format!("rm {}", path.display()));
    let withdrawn = until(patience, || answers(&call, StatusCode::FORBIDDEN))
        .await
        .context("the withdrawal did not take effect")?;
    say.evidence(&format!("-> 403 after {withdrawn:.1?}"));
    Ok("the running sidecars followed, without a restart".into())
}

async fn rotation_under_load(
    mesh: &Mesh,
    say: &Narrator,
    duration: Duration,
) -> anyhow::Result<String> {
    let call = mesh.storefront.call(Method::GET, ORDER);
    say.command(&format!(
        "{LOAD_PER_SECOND} requests a second for {duration:?}; meanwhile, every {ROTATE_EVERY:?}:"
    ));
    for ports in [&mesh.storefront, &mesh.orders] {
        say.command(&format!(
            "curl --unix-socket {} -X POST http://localhost/rotate",
            mesh.socket(ports).display()
        ));
    }
    let load = tokio::spawn(load::run(call, LOAD_PER_SECOND, duration));
    let mut serials = BTreeSet::new();
    let mut rotations = 0;
    while !load.is_finished() {
        for ports in [&mesh.storefront, &mesh.orders] {
            mesh.rotate(ports).await?;
            serials.insert(serial_of(ports).await?);
            rotations += 1;
        }
        tokio::time::sleep(ROTATE_EVERY).await;
    }
    let tally = load.await.context("running the load")?;
    say.evidence(&format!(
        "{} requests, {} failed, {rotations} rotations, {} different serials seen",
        tally.sent,
        tally.failed,
        serials.len()
    ));
    ensure!(
        tally.failed == 0,
        "{} of {} failed, for example: {}",
        tally.failed,
        tally.sent,
        tally.example.unwrap_or_default()
    );
    ensure!(
        tally.sent > 0 && serials.len() >= rotations,
        "expected requests, and a new serial for each rotation"
    );
    Ok("not one request was lost".into())
}

async fn ca_outage(mesh: &mut Mesh, say: &Narrator) -> anyhow::Result<String> {
    say.command("kill the CA");
    mesh.stop_ca().await?;
    let reply = send(say, &mesh.storefront.call(Method::GET, ORDER)).await?;
    expect(&reply, StatusCode::OK)?;
    say.evidence(&format!(
        "traffic goes on with the certificates at hand; they live for {TTL:?} here"
    ));
    let call = mesh.storefront.call(Method::GET, ORDER);
    let patience = TTL + Duration::from_secs(5);
    let closed = until(patience, || answers(&call, StatusCode::SERVICE_UNAVAILABLE))
        .await
        .context("expected 503 after expiry")?;
    let reply = send(say, &call).await?;
    ensure!(
        reply.body.contains("identity_expired"),
        "expected the reason in the response, found {}",
        reply.body
    );
    say.evidence(&format!("closed {closed:.1?} later: {}", reply.body));
    let ready = send(say, &mesh.storefront.ask("/ready")).await?;
    expect(&ready, StatusCode::SERVICE_UNAVAILABLE)?;
    say.command("start the CA again");
    mesh.start_ca().await?;
    let back = until(Duration::from_secs(20), || answers(&call, StatusCode::OK))
        .await
        .context("the sidecars did not recover")?;
    Ok(format!(
        "closed when the certificates expired, with the reason; open again by itself {back:.1?} after the CA returned"
    ))
}

async fn send(say: &Narrator, call: &Call<'_>) -> anyhow::Result<Reply> {
    say.command(&call.as_curl());
    let reply = call.send().await?;
    say.evidence(&format!("-> {} {}", reply.status, reply.body));
    Ok(reply)
}

fn expect(reply: &Reply, status: StatusCode) -> anyhow::Result<()> {
    ensure!(
        reply.status == status,
        "expected {status}, found {} {}",
        reply.status,
        reply.body
    );
    Ok(())
}

async fn answers(call: &Call<'_>, status: StatusCode) -> bool {
    matches!(call.send().await, Ok(reply) if reply.status == status)
}

async fn identity_of(ports: &Ports) -> anyhow::Result<String> {
    let said = ports.ask("/identity").send().await?.json()?;
    let field = |name: &str| {
        said[name]
            .as_str()
            .with_context(|| format!("expected {name} in /identity"))
    };
    Ok(format!(
        "{} serial {} until {}",
        field("id")?,
        field("serial")?,
        field("not_after")?
    ))
}

async fn serial_of(ports: &Ports) -> anyhow::Result<String> {
    let said = ports.ask("/identity").send().await?.json()?;
    said["serial"]
        .as_str()
        .map(str::to_owned)
        .context("expected a serial in /identity")
}

fn bundle(mesh: &Mesh) -> anyhow::Result<identity::TrustBundle> {
    let path = mesh.folder.join("ca/ca-bundle.pem");
    let pem = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(identity::TrustBundle::from_pem(
        TRUST_DOMAIN.parse()?,
        &pem,
        0,
    )?)
}

/// Shakes hands and waits for the sidecar's refusal, which in TLS 1.3 comes after the client's part is done.
async fn handshake(
    config: rustls::ClientConfig,
    stream: TcpStream,
) -> anyhow::Result<rustls::Error> {
    let name = "orders".try_into().context("naming the server")?;
    let exchange = async {
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await?.read_u8().await
    };
    let limit = Duration::from_secs(5);
    let Ok(outcome) = tokio::time::timeout(limit, exchange).await else {
        anyhow::bail!("expected a refusal within {limit:?}, found an open connection");
    };
    let Err(error) = outcome else {
        anyhow::bail!("expected a refusal, found an answer");
    };
    let refusal = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>().cloned());
    refusal.ok_or(error).context("expected a TLS alert")
}
