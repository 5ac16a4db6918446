//! The command line of `cargo xtask cluster`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Subcommand, ValueEnum};

use super::{
    control, door, down, init,
    layout::{ClusterName, Layout},
    node, shell, smoke,
    state::{Cluster, choose},
    status, up,
};
use crate::report;

/// Run a real Kubernetes on this machine, in namespaces: control plane, nodes with containerd, names
///
/// The programs are built at the first time, which takes twenty minutes; afterwards a cluster is up within a minute. Needs root
/// and Go.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build what is missing, start a cluster and print the path of its kubeconfig
    Up(Up),
    /// End a cluster and remove everything of it
    Down(Down),
    /// What runs, and what the API says of the nodes
    Status(Status),
    /// A shell whose kubectl asks the cluster, in the control plane's network or on a node
    Shell(Shell),
    /// Print the log of a component; without a name, say which there are
    Logs(Logs),
    /// End a component of the control plane and start it again
    Restart(Restart),
    /// Bring a cluster up, run the sample shop on it without a mesh, take it down, and look for anything left behind
    Smoke(Smoke),
    /// Start a node; used by `up`
    #[command(hide = true)]
    Node { spec: String },
    /// Be a node's first process; used by `node`
    #[command(hide = true)]
    Init { spec: String },
    /// Pass connections on to the API server; used by `up`
    #[command(hide = true)]
    Door { netns: PathBuf, target: String, port_file: PathBuf },
}

#[derive(clap::Args)]
struct Up {
    /// How many nodes, 1 to 9
    #[arg(long, default_value_t = 2)]
    nodes: u8,
    /// What to call the cluster: 1 to 12 small letters and digits
    #[arg(long, default_value = "dev")]
    name: ClusterName,
}

#[derive(clap::Args)]
pub(super) struct Chosen {
    /// Which cluster; the only one if absent
    #[arg(long)]
    name: Option<ClusterName>,
}

#[derive(clap::Args)]
struct Down {
    #[command(flatten)]
    cluster: Chosen,
    /// All clusters on this machine
    #[arg(long, conflicts_with = "name")]
    all: bool,
}

#[derive(clap::Args)]
struct Status {
    #[command(flatten)]
    cluster: Chosen,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

#[derive(clap::Args)]
struct Shell {
    #[command(flatten)]
    cluster: Chosen,
    /// On this node, in all of its namespaces
    #[arg(long)]
    node: Option<String>,
    /// Instead of a shell: a program and its arguments
    #[arg(last = true)]
    command: Vec<String>,
}

#[derive(clap::Args)]
struct Logs {
    #[command(flatten)]
    cluster: Chosen,
    /// kube-apiserver, node-1-kubelet and so on
    component: Option<String>,
    /// Go on printing what is added
    #[arg(long, short)]
    follow: bool,
}

#[derive(clap::Args)]
struct Restart {
    #[command(flatten)]
    cluster: Chosen,
    /// etcd, kube-apiserver, kube-controller-manager, kube-scheduler, coredns or api-door
    component: String,
}

#[derive(clap::Args)]
struct Smoke {
    /// What to call the cluster
    #[arg(long, default_value = "smoke")]
    name: ClusterName,
    /// Leave the cluster running
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.verb {
        Verb::Up(Up { nodes, name }) => bring_up(name, *nodes),
        Verb::Down(down) => take_down(down),
        Verb::Status(Status { cluster, output }) => status::print(&choose(cluster.name.as_ref())?, *output),
        Verb::Shell(Shell { cluster, node, command }) => {
            shell::enter(&Cluster::find(cluster.name.as_ref())?, node.as_deref(), command)
        }
        Verb::Logs(Logs { cluster, component, follow }) => {
            shell::print_log(&choose(cluster.name.as_ref())?, component.as_deref(), *follow)
        }
        Verb::Restart(Restart { cluster, component }) => {
            control::restart(&mut Cluster::find(cluster.name.as_ref())?, component)?;
            report::note(format_args!("{component} was started again"));
            Ok(())
        }
        Verb::Smoke(Smoke { name, keep }) => smoke::run(name, *keep),
        Verb::Node { spec } => node::enter(spec),
        Verb::Init { spec } => init::run(spec),
        Verb::Door { netns, target, port_file } => door::open(netns, target, port_file),
    }
}

/// The kubeconfig's path is all that goes to standard output.
fn bring_up(name: &ClusterName, nodes: u8) -> Result<()> {
    let cluster = up::up(name, nodes)?;
    let of = |verb: &str| format!("cargo xtask cluster {verb} --name {name}");
    report::note(format_args!(
        "cluster {name}: {} nodes; `{}`, `{}`, `{}`",
        cluster.nodes.len(),
        of("status"),
        of("shell"),
        of("down")
    ));
    println!("{}", cluster.kubeconfig.display());
    Ok(())
}

fn take_down(down: &Down) -> Result<()> {
    let layouts = if down.all { Layout::all() } else { vec![choose(down.cluster.name.as_ref())?] };
    for layout in layouts {
        report::waiting(&format!("taking cluster {} down", layout.name), || down::remove(&layout))?;
        report::note(format_args!("cluster {} is gone", layout.name));
    }
    Ok(())
}
