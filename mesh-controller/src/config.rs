//! Settings from the command line.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Debug, Parser)]
#[command(name = "mesh-controller", about = "Translates configuration, distributes it to nodes and signs certificates", version)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Command {
    #[command(subcommand)]
    pub action: Option<Action>,
    #[command(flatten)]
    pub run: Option<Run>,
}

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Print a new bearer token for a node; an older one of that node is no longer accepted
    Token {
        /// The controller's state folder
        #[arg(long)]
        state: PathBuf,
        /// The node's name
        node: String,
    },
    /// Print the path of the root certificates that nodes trust
    Root {
        /// The controller's state folder
        #[arg(long)]
        state: PathBuf,
    },
}

#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Where objects come from: folder:DIR
    #[arg(long)]
    pub source: Source,
    /// Where keys, tokens and reports are kept
    #[arg(long)]
    pub state: PathBuf,
    /// Where nodes connect
    #[arg(long, default_value = "[::]:15012")]
    pub listen: SocketAddr,
    /// Where readiness, metrics and dumps are served
    #[arg(long, default_value = "127.0.0.1:15014")]
    pub admin: SocketAddr,
    /// Further names and addresses by which nodes reach this controller; may be repeated
    #[arg(long = "san")]
    pub sans: Vec<String>,
    /// Longest lifetime of a workload's certificate, 10s to 90d
    #[arg(long, default_value = "24h", value_parser = leaf_lifetime)]
    pub leaf_lifetime: Duration,
    /// The cluster's name: the first part of every workload's uid
    #[arg(long, default_value = "Kubernetes")]
    pub cluster: String,
    /// The ending of Kubernetes Services' hostnames
    #[arg(long, default_value = "cluster.local")]
    pub dns_domain: String,
    /// What to log: a level, or `module=level` pairs
    #[arg(long, default_value = "info", env = "RUST_LOG")]
    pub log: String,
    /// How to log
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Folder(PathBuf),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("folder", path)) if !path.is_empty() => Ok(Self::Folder(path.into())),
            _ => Err("expected folder:DIR".into()),
        }
    }
}

fn leaf_lifetime(text: &str) -> Result<Duration, String> {
    let day = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok()).and_then(|days| days.checked_mul(86_400));
    let seconds = day.or_else(|| mesh_config::validate::parse_duration(text)).ok_or("expected a duration such as 24h")?;
    if !(10..=90 * 86_400).contains(&seconds) {
        return Err("expected 10s to 90d".into());
    }
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Command::command().debug_assert();
        let run = ["mesh-controller", "--source", "folder:/a:b", "--state=/s", "--leaf-lifetime=10s"];
        let run = Command::try_parse_from(run).unwrap().run.unwrap();
        assert_eq!(run.source, Source::Folder("/a:b".into()));
        assert_eq!(run.leaf_lifetime, Duration::from_secs(10));
        assert_eq!(run.listen, "[::]:15012".parse().unwrap());
        let token = Command::try_parse_from(["mesh-controller", "token", "--state", "/s", "node-1"]).unwrap();
        assert!(matches!(token.action, Some(Action::Token { .. })));
    }

    #[test]
    fn lifetimes_have_bounds() {
        assert_eq!(leaf_lifetime("90d"), Ok(Duration::from_hours(90 * 24)));
        for bad in ["9s", "91d", "forever", "", "-1h"] {
            assert!(leaf_lifetime(bad).is_err(), "{bad}");
        }
    }
}
