//! `tipstaff redirect`: the nftables rules that lead a workload's connections through its sidecar.
//!
//! One table of our own, replaced in one transaction: installing twice is installing once, and no moment is half done.
//! What is not listed here is not touched: neither other tables, nor routes, nor what passes this machine on its way
//! elsewhere.

use super::print;
use crate::cli::{RedirectArgs, RedirectCommand, Udp};
use anyhow::{Context, bail};
use proxy::config::{Cidr, INBOUND_DOOR, OUTBOUND_DOOR};
use std::fmt::{self, Display};
use std::io::{self, Write};
use std::process::{Command, ExitCode, Stdio};

/// Making the table before it is deleted keeps the deletion from failing when there is none.
const REMOVE: &str = "table inet tipstaff\ndelete table inet tipstaff\n";

pub(crate) fn run(command: &RedirectCommand) -> anyhow::Result<ExitCode> {
    match command {
        RedirectCommand::Print(arguments) => print(format_args!("{}", Ruleset(arguments)))?,
        RedirectCommand::Install(arguments) => load(&Ruleset(arguments).to_string())?,
        RedirectCommand::Remove => load(REMOVE)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Hands a transaction to `nft`: all of it takes effect, or nothing.
fn load(text: &str) -> anyhow::Result<()> {
    let started = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut nft = match started {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("expected nft in PATH, found none: install the package nftables")
        }
        started => started.context("starting nft")?,
    };
    let mut input = nft.stdin.take().context("nft has no standard input")?;
    // One that ends before it has read all says why on its standard error.
    let written = input.write_all(text.as_bytes());
    drop(input);
    let output = nft.wait_with_output().context("waiting for nft")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("Operation not permitted") {
            bail!(
                "nft may not change the rules: this needs CAP_NET_ADMIN in the network namespace of the workload"
            );
        }
        bail!("nft refused the rules ({}): {}", output.status, said.trim());
    }
    written.context("writing to nft")
}

/// The rules as `nft -f` reads them.
struct Ruleset<'r>(&'r RedirectArgs);

impl Display for Ruleset<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arguments = self.0;
        let (uid, inbound, outbound) = (
            arguments.proxy_uid,
            arguments.inbound_port,
            arguments.outbound_port,
        );
        writeln!(f, "{REMOVE}table inet tipstaff {{")?;

        writeln!(f, "\tchain inbound {{")?;
        writeln!(
            f,
            "\t\ttype nat hook prerouting priority -100; policy accept;"
        )?;
        writeln!(f, "\t\tfib daddr type != local return")?;
        writeln!(f, "\t\tiifname \"lo\" return")?;
        let excluded = [inbound, outbound];
        let excluded = excluded.iter().chain(&arguments.exclude_inbound_ports);
        writeln!(f, "\t\ttcp dport {} return", Set(excluded))?;
        match arguments.inbound_ports.as_slice() {
            [] => write!(f, "\t\tmeta l4proto tcp ")?,
            ports => write!(f, "\t\ttcp dport {} ", Set(ports.iter()))?,
        }
        writeln!(f, "redirect to :{inbound}\n\t}}")?;

        writeln!(f, "\tchain outbound {{")?;
        writeln!(f, "\t\ttype nat hook output priority -100; policy accept;")?;
        // Whoever connects there, the sidecar itself first of all: so it knows that these rules are in force.
        for (door, port) in [(OUTBOUND_DOOR, outbound), (INBOUND_DOOR, inbound)] {
            writeln!(
                f,
                "\t\tfib daddr type local tcp dport {door} redirect to :{port}"
            )?;
        }
        self.left_alone(f, uid)?;
        writeln!(f, "\t\tmeta l4proto tcp redirect to :{outbound}\n\t}}")?;

        if arguments.udp == Udp::Refuse {
            writeln!(f, "\tchain refused {{")?;
            writeln!(f, "\t\ttype filter hook output priority 0; policy accept;")?;
            self.left_alone(f, uid)?;
            writeln!(f, "\t\tudp dport 53 return")?;
            writeln!(f, "\t\tmeta l4proto udp reject\n\t}}")?;
        }
        writeln!(f, "}}")
    }
}

impl Ruleset<'_> {
    /// What the workload's side of the rules does not concern: the sidecar's own connections, and those that stay on this
    /// machine, whichever of its addresses they name.
    fn left_alone(&self, f: &mut fmt::Formatter<'_>, uid: u32) -> fmt::Result {
        writeln!(f, "\t\tmeta skuid {uid} return")?;
        writeln!(f, "\t\tfib daddr type local return")?;
        let (ipv4, ipv6): (Vec<_>, Vec<_>) =
            self.0.exclude_cidrs.iter().partition(|cidr| cidr.is_ipv4());
        for (family, cidrs) in [("ip", ipv4), ("ip6", ipv6)] {
            for cidr in cidrs {
                let cidr: &Cidr = cidr;
                writeln!(f, "\t\t{family} daddr {cidr} return")?;
            }
        }
        Ok(())
    }
}

/// An anonymous set: `{ 22, 80 }`.
struct Set<I>(I);

impl<I: Iterator<Item: Display> + Clone> Display for Set<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{ ")?;
        for (place, item) in self.0.clone().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{item}")?;
        }
        f.write_str(" }")
    }
}
