//! Certificates and TLS handshakes for `cargo xtask bench`, whose own program shall stay without a TLS library.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;
use harness::envoy::config::Credentials;
use interop_tests::{
    certificates::{ThrowAway, signed},
    handshakes::{self, Rate},
};
use mesh_policy::model::Identity;

#[derive(Parser)]
#[command(about = "Certificates and TLS handshakes for measurements", max_term_width = 120)]
enum Command {
    /// Make certificates of a new authority, which is forgotten
    Mint {
        folder: PathBuf,
        /// NAME=IDENTITY: the name of the files, the SPIFFE identity
        #[arg(required = true, value_parser = named)]
        certificates: Vec<(String, Identity)>,
    },
    /// Have a lab's controller sign a certificate
    Sign {
        /// The lab's id
        lab: String,
        /// The node that asks
        node: String,
        folder: PathBuf,
        #[arg(value_parser = named)]
        certificate: (String, Identity),
    },
    /// Shake hands with a peer, over and over, each time on a new connection
    Handshakes {
        target: SocketAddr,
        folder: PathBuf,
        #[arg(value_parser = named)]
        certificate: (String, Identity),
        /// Whom the peer must prove to be
        peer: Identity,
        /// How many at the same time
        #[arg(long, short = 'c', default_value_t = 8)]
        concurrency: usize,
        /// For how long, in seconds
        #[arg(long, short)]
        duration: f64,
    },
    /// The same of rustls with itself in memory, one thread
    InMemory {
        /// For how long, in seconds
        #[arg(long, short)]
        duration: f64,
    },
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Mint { folder, certificates } => {
            let authority = ThrowAway::new()?;
            for (name, identity) in certificates {
                authority.write(&folder, &name, &identity)?;
            }
            Ok(())
        }
        Command::Sign { lab, node, folder, certificate: (name, identity) } => {
            signed(&harness::status(&lab)?, &node, &folder, &name, &identity).map(drop)
        }
        Command::Handshakes { target, folder, certificate: (name, identity), peer, concurrency, duration } => {
            let own = Credentials::in_folder(&folder, &name);
            print(handshakes::with_peer(target, &own, &identity, &peer, concurrency, Duration::from_secs_f64(duration))?)
        }
        Command::InMemory { duration } => print(handshakes::in_memory(Duration::from_secs_f64(duration))?),
    }
}

fn named(text: &str) -> Result<(String, Identity)> {
    let (name, identity) = text.split_once('=').context("expected NAME=IDENTITY")?;
    Ok((name.to_owned(), identity.parse()?))
}

/// One JSON object; the CPU time is this process's own.
fn print(rate: Rate) -> Result<()> {
    println!(
        "{}",
        serde_json::json!({
            "handshakes": rate.handshakes,
            "seconds": rate.seconds,
            "cpu_seconds": cpu_seconds()?,
        })
    );
    Ok(())
}

/// User and system time (proc_pid_stat(5), fields 14 and 15, in hundredths of a second).
fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat[stat.rfind(')').context("no command in /proc/self/stat")? + 2..].split(' ').collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
