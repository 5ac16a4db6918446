//! The node's settings: command line or environment, read and checked before anything is opened.

mod cni;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};

pub use cni::CniArguments;

/// Captures this node's pods and carries their traffic.
#[derive(Clone, Debug, Parser)]
#[command(name = "mesh-node", version)]
pub struct Config {
    /// Name of this node, as pods name it in spec.nodeName
    #[arg(long, env = "KEELSON_NODE_NAME")]
    pub name: String,

    /// Tells several nodes on one machine apart; names the pins below the BPF file system
    #[arg(long, env = "KEELSON_INSTANCE", default_value = "default")]
    pub instance: String,

    /// Where sockets and records of captured pods live
    #[arg(long, env = "KEELSON_RUNTIME_DIR", default_value = "/run/keelson/node")]
    pub runtime_dir: PathBuf,

    /// Where the last good state and certificates are kept [default: <RUNTIME_DIR>/state]
    #[arg(long, env = "KEELSON_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// The controller, as https://host:port
    #[arg(long, env = "KEELSON_CONTROLLER")]
    pub controller: String,

    /// PEM file with the root certificates that the controller's own certificate is checked with
    #[arg(long, env = "KEELSON_CA_ROOT")]
    pub ca_root: PathBuf,

    /// File with the bearer token that names this node to the controller; read anew for every call
    #[arg(long, env = "KEELSON_TOKEN_FILE")]
    pub token_file: PathBuf,

    /// Name of the cluster, the first part of its workloads' uids
    #[arg(long, env = "KEELSON_CLUSTER", default_value = "Kubernetes")]
    pub cluster: String,

    /// Root of the cgroup v2 hierarchy, or the folder with `unified` where v1 is in use as well [default: found in /proc/self/mountinfo]
    #[arg(long, env = "KEELSON_CGROUP")]
    pub cgroup: Option<PathBuf>,

    /// Whose probes reach this node's pods whatever policy says, beside --probe-cgroup
    #[arg(long, env = "KEELSON_PROBES", value_enum, default_value_t = Probes::None)]
    pub probes: Probes,

    /// A cgroup v2 folder of the kubelet's: its probes reach this node's pods whatever policy says; may be repeated
    #[arg(long = "probe-cgroup", env = "KEELSON_PROBE_CGROUPS", value_delimiter = ':')]
    pub probe_cgroups: Vec<PathBuf>,

    /// Mount point of the BPF file system; mounted if it is not
    #[arg(long, env = "KEELSON_BPFFS", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,

    /// Threads that carry traffic [default: one per core]
    #[arg(long, env = "KEELSON_WORKERS", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: Option<u16>,

    /// Dump, connections, log level and drain; loopback addresses only
    #[arg(long, env = "KEELSON_ADMIN", default_value = "127.0.0.1:15000")]
    pub admin: SocketAddr,

    /// Prometheus metrics on /metrics and /stats/prometheus; loopback addresses only
    #[arg(long, env = "KEELSON_METRICS", default_value = "127.0.0.1:15020")]
    pub metrics: SocketAddr,

    /// Readiness on /healthz/ready; loopback addresses only
    #[arg(long, env = "KEELSON_READY", default_value = "127.0.0.1:15021")]
    pub ready: SocketAddr,

    /// How long open connections may go on after SIGTERM, such as 30s
    #[arg(long, env = "KEELSON_DRAIN", default_value = "25s", value_parser = duration)]
    pub drain: Duration,

    /// How long a connection waits for configuration that is not there yet
    #[arg(long, env = "KEELSON_CONFIGURATION_WAIT", default_value = "5s", value_parser = duration)]
    pub configuration_wait: Duration,

    /// How long a connection waits for its pod's certificate
    #[arg(long, env = "KEELSON_CERTIFICATE_WAIT", default_value = "5s", value_parser = duration)]
    pub certificate_wait: Duration,

    /// How long the network may take to make a connection
    #[arg(long, env = "KEELSON_CONNECT_TIMEOUT", default_value = "10s", value_parser = duration)]
    pub connect_timeout: Duration,

    /// How long the head of a request may take, from its first byte to its last
    #[arg(long, env = "KEELSON_HTTP_HEAD_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub http_head_timeout: Duration,

    /// How long a client may send nothing of a request's body that its server waits for; gRPC's streams may be silent for longer
    #[arg(long, env = "KEELSON_HTTP_BODY_TIMEOUT", default_value = "5m", value_parser = duration)]
    pub http_body_timeout: Duration,

    /// Servers of names for endpoints of ServiceEntries that have a name and no address (resolution DNS); read anew when it changes
    #[arg(long, env = "KEELSON_RESOLV_CONF", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,

    /// Connections that one pod may have open
    #[arg(long, env = "KEELSON_POD_CONNECTIONS", default_value_t = 200_000)]
    pub pod_connections: usize,

    /// MiB that one pod's tunnels may hold unread
    #[arg(long, env = "KEELSON_POD_TUNNEL_MIB", default_value_t = 64)]
    pub pod_tunnel_mib: usize,

    /// Filter of the log, such as info or mesh_node::outbound=debug,access=off
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log: String,

    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// OpenTelemetry collector that spans go to by OTLP over gRPC, such as http://10.0.0.7:4317 [default: nothing is traced]
    #[arg(long, env = "KEELSON_OTLP")]
    pub otlp: Option<String>,

    /// Percent of requests that are traced where their sender says nothing of tracing
    #[arg(long, env = "KEELSON_TRACE_SAMPLING", default_value_t = 1.0)]
    pub trace_sampling: f64,

    #[command(flatten)]
    pub cni: CniArguments,

    /// Take the CNI plugin away, release every capture of this instance, remove all its pins and files, and exit
    #[arg(long)]
    pub uninstall: bool,

    /// After that, say so on the readiness address until SIGTERM
    #[arg(long, requires = "uninstall")]
    pub stay: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Probes {
    /// Nobody's
    None,
    /// The kubelet's, found among the processes of this node's PID namespace
    Kubelet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl Config {
    pub fn state_dir(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| self.runtime_dir.join("state"))
    }

    /// What clap can not say: these listeners must not be reachable from pods.
    pub fn validate(&self) -> Result<(), String> {
        for (flag, address) in [("--admin", self.admin), ("--metrics", self.metrics), ("--ready", self.ready)] {
            if !address.ip().is_loopback() {
                return Err(format!("{flag} {address}: only loopback addresses, pods could reach any other"));
            }
        }
        if !(0.0..=100.0).contains(&self.trace_sampling) {
            return Err(format!("--trace-sampling {}: a percentage, from 0 to 100", self.trace_sampling));
        }
        if self.instance.is_empty() || !self.instance.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
            return Err(format!("--instance {:?}: only letters, digits, '-' and '_'", self.instance));
        }
        Ok(())
    }
}

/// `250ms`, `30s`, `5m` or `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or("a unit is missing: ms, s, m or h")?;
    let number: u64 = text[..digits].parse().map_err(|_| "a whole number and a unit, such as 30s".to_owned())?;
    match &text[digits..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        "h" => Ok(Duration::from_secs(number.saturating_mul(3600))),
        unit => Err(format!("unknown unit {unit:?}: ms, s, m or h")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &[&str]) -> Result<Config, clap::Error> {
        let base = ["mesh-node", "--name", "n", "--controller", "https://c:15012", "--ca-root", "r", "--token-file", "t"];
        Config::try_parse_from(base.iter().chain(extra))
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse(&["--drain", "250ms"]).expect("valid").drain, Duration::from_millis(250));
        assert_eq!(parse(&["--drain", "2m"]).expect("valid").drain, Duration::from_mins(2));
        for bad in ["", "5", "s", "5 s", "-5s", "5d"] {
            assert!(parse(&["--drain", bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_sampling_rate_is_a_percentage() {
        for good in ["0", "0.01", "100"] {
            assert_eq!(parse(&["--trace-sampling", good]).expect("valid").validate(), Ok(()), "{good}");
        }
        for bad in ["--trace-sampling=-1", "--trace-sampling=100.1", "--trace-sampling=NaN"] {
            assert!(parse(&[bad]).expect("a number").validate().is_err(), "{bad}");
        }
    }

    #[test]
    fn admin_ports_stay_out_of_reach() {
        assert!(parse(&[]).expect("valid").validate().is_ok());
        for bad in [["--admin", "0.0.0.0:15000"], ["--metrics", "10.0.0.1:15020"], ["--ready", "[::]:15021"]] {
            assert!(parse(&bad).expect("valid").validate().is_err(), "{bad:?}");
        }
    }
}
