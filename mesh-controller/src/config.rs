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
    /// Where objects come from: folder:DIR, or kubernetes
    #[arg(long)]
    pub source: Source,
    /// How to reach the API server; without it, by the service account of this process's pod
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespaces whose pods are never captured, whatever their labels say; may be repeated
    #[arg(long = "exempt-namespace", value_name = "NAMESPACE", default_values = ["kube-system", "keelson-system"])]
    pub exempt_namespaces: Vec<String>,
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
    /// In Kubernetes: the namespace of controller and nodes
    #[arg(long, env = "POD_NAMESPACE", default_value = "keelson-system")]
    pub namespace: String,
    /// In Kubernetes: the Service of the controllers, and the name of their Lease
    #[arg(long, default_value = "keelson-controller")]
    pub service: String,
    /// In Kubernetes: the service account under which nodes run
    #[arg(long, default_value = "keelson-node")]
    pub node_account: String,
    /// In Kubernetes: this replica's name, as Lease and events have it; the host's name where it is not given
    #[arg(long, env = "POD_NAME")]
    pub pod: Option<String>,
    /// In Kubernetes: where the API server has objects validated (HTTPS)
    #[arg(long, default_value = "[::]:15017")]
    pub webhook: SocketAddr,
    /// In Kubernetes: how long a leader counts that nobody hears of, 3s to 5m
    #[arg(long, default_value = "15s", value_parser = lease)]
    pub lease: Duration,
}

impl Run {
    /// This replica among the others.
    pub fn instance(&self) -> String {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned());
        let name = self.pod.clone().or_else(|| host().ok()).filter(|name| !name.is_empty());
        // Names are used again; two processes of one name are still two.
        format!("{}_{:08x}", name.as_deref().unwrap_or("mesh-controller"), fastrand::u32(..))
    }
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
    Kubernetes,
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("folder", path)) if !path.is_empty() => Ok(Self::Folder(path.into())),
            None if text == "kubernetes" => Ok(Self::Kubernetes),
            _ => Err("expected folder:DIR or kubernetes".into()),
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

fn lease(text: &str) -> Result<Duration, String> {
    let seconds = mesh_config::validate::parse_duration(text).ok_or("expected a duration such as 15s")?;
    if !(3..=300).contains(&seconds) {
        return Err("expected 3s to 5m".into());
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
        assert_eq!(run.exempt_namespaces, ["kube-system", "keelson-system"]);
        let run = ["mesh-controller", "--source=kubernetes", "--state=/s", "--kubeconfig=/k", "--exempt-namespace=a"];
        let run = Command::try_parse_from(run).unwrap().run.unwrap();
        assert_eq!((run.source, run.kubeconfig), (Source::Kubernetes, Some("/k".into())));
        assert_eq!(run.exempt_namespaces, ["a"]);
        for bad in ["folder:", "folder", "kubernetes:x", ""] {
            assert!(Source::from_str(bad).is_err(), "{bad}");
        }
        let token = Command::try_parse_from(["mesh-controller", "token", "--state", "/s", "node-1"]).unwrap();
        assert!(matches!(token.action, Some(Action::Token { .. })));
    }

    #[test]
    fn lifetimes_have_bounds() {
        assert_eq!(leaf_lifetime("90d"), Ok(Duration::from_hours(90 * 24)));
        for bad in ["9s", "91d", "forever", "", "-1h"] {
            assert!(leaf_lifetime(bad).is_err(), "{bad}");
        }
        assert_eq!(lease("5m"), Ok(Duration::from_mins(5)));
        for bad in ["2s", "6m", "", "15"] {
            assert!(lease(bad).is_err(), "{bad}");
        }
    }
}
