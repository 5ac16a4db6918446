//! What can be written on the command line.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    commands::{AnalyzeArgs, BugReportArgs, CheckArgs, ExplainArgs, InstallArgs, RoutesArgs, TestArgs, UninstallArgs},
    filter::Filter,
    k8s::ClusterArgs,
    log_filter::LogChange,
    output::Format,
};

const EXAMPLES: &str = "\
Examples:
  meshctl status                          whether the nodes are ready, and if not, why
  meshctl services -n shop                what the mesh knows of a namespace
  meshctl connections --node node-1       what is open on one node
  meshctl policies strict -o yaml         a policy with all its rules
  meshctl explain shop/client reviews.shop --path /reviews/0 -H 'end-user: jason'
  meshctl log mesh_node::outbound=debug   more of one module in the log of every node
  meshctl install --wait                  put the mesh into the cluster of the kubeconfig
  meshctl check                           whether it works there, and what to do if not

It finds the nodes that run on this machine by itself; it must be root to ask them. Where none does, it asks those of the cluster
of the kubeconfig.
Exit codes: 0 all went well, 1 something did not (see the message), 2 the command line is wrong.";

/// Look into a mesh and tell its nodes what to do.
#[derive(Debug, Parser)]
#[command(name = "meshctl", version, after_help = EXAMPLES, max_term_width = 110)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// How to print what is found
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,

    /// Ask this node only; may be repeated
    #[arg(long = "node", global = true, value_name = "NAME")]
    pub(crate) nodes: Vec<String>,

    /// Ask the node with this admin socket or runtime directory, and look for no other
    #[arg(long, global = true, value_name = "PATH", conflicts_with_all = ["nodes", "lab", "kubeconfig", "context"])]
    pub(crate) socket: Option<PathBuf>,

    /// Ask the nodes of this laboratory, where several run
    #[arg(long, global = true, value_name = "ID", conflicts_with_all = ["kubeconfig", "context"])]
    pub(crate) lab: Option<String>,

    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,

    /// No colours; NO_COLOR in the environment does the same
    #[arg(long, global = true)]
    pub(crate) no_color: bool,

    /// Where nodes have their runtime directories
    #[arg(long = "run", global = true, env = "KEELSON_RUN", value_name = "DIR", default_value = "/run/keelson", hide = true)]
    pub(crate) root: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Whether the nodes are ready, and what each holds
    Status,
    /// Workloads that the mesh knows
    #[command(alias = "workload")]
    Workloads(Filter),
    /// Services, their addresses and how many of their endpoints are healthy
    #[command(alias = "service")]
    Services(Filter),
    /// Authorization policies
    #[command(alias = "policy")]
    Policies(Filter),
    /// Open connections; the filters look at both ends
    #[command(alias = "connection")]
    Connections(Filter),
    /// Workload certificates; NAME is a service account
    #[command(alias = "certificate")]
    Certificates(Filter),
    /// Pods whose traffic is captured
    #[command(alias = "pod")]
    Pods(Filter),
    /// What comes of a request, and why: binding, route, endpoints, policies
    Explain(ExplainArgs),
    /// The rules of a service as they are carried out, in their order
    #[command(alias = "route")]
    Routes(RoutesArgs),
    /// Whether manifests route, admit and refuse as a file expects; nothing has to run
    Test(TestArgs),
    /// What is wrong, or not as it seems, in manifests; nothing has to run
    #[command(alias = "validate")]
    Analyze(AnalyzeArgs),
    /// Show or change what the nodes log
    Log {
        /// A level (off, error, warn, info, debug, trace) for all, MODULE=LEVEL beside what is set, or reset
        #[arg(value_name = "LEVEL|MODULE=LEVEL|reset")]
        change: Option<LogChange>,
    },
    /// Have nodes finish their open connections and exit
    Drain {
        /// All nodes that are found, where there are several and --node names none
        #[arg(long)]
        all: bool,
    },
    /// All that the nodes hold, as JSON: one document for each node
    ConfigDump,
    /// Have a node capture a pod's traffic; returns when the pod may start
    Enrol(EnrolArgs),
    /// Have a node let go of a pod's traffic; returns when it flows without the proxy
    Unenrol(UnenrolArgs),
    /// Put the mesh into a cluster
    Install(InstallArgs),
    /// Change the mesh in a cluster to this version and these settings
    Upgrade(InstallArgs),
    /// Take the mesh out of a cluster, with what it put on the nodes
    Uninstall(UninstallArgs),
    /// Whether the mesh in a cluster works, and the remedy for what does not
    Check(CheckArgs),
    /// Collect what helps to find a fault in a cluster: one tar file, without secrets
    BugReport(BugReportArgs),
    /// Write a completion script for a shell
    Completion {
        /// For which shell
        shell: Shell,
    },
    /// The versions of meshctl and of the nodes
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct EnrolArgs {
    /// A path that opens the pod's network namespace, such as /run/netns/page
    #[arg(long, value_name = "PATH")]
    pub(crate) netns: PathBuf,

    /// The pod's namespace
    #[arg(short, long)]
    pub(crate) namespace: String,

    /// The pod's name
    #[arg(long)]
    pub(crate) name: String,

    /// Names the pod's identity, together with the namespace
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) service_account: String,

    /// An address of the pod, IPv4 or IPv6; may be repeated
    #[arg(long = "ip", value_name = "IP", required = true, value_delimiter = ',')]
    pub(crate) addresses: Vec<IpAddr>,

    /// Under which the controller knows the pod [default: Kubernetes//Pod/NAMESPACE/NAME]
    #[arg(long)]
    pub(crate) uid: Option<String>,

    /// The pod's processes run already: let their traffic be while the mesh learns of it
    #[arg(long)]
    pub(crate) running: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct UnenrolArgs {
    /// NAMESPACE/NAME or the pod's uid
    #[arg(value_name = "NAMESPACE/NAME|UID", value_parser = pod_reference)]
    pub(crate) pod: Option<PodReference>,

    /// The pod's uid
    #[arg(long)]
    pub(crate) uid: Option<String>,
}

/// A pod as people name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PodReference {
    Uid(String),
    Name { namespace: String, name: String },
}

fn pod_reference(text: &str) -> Result<PodReference, String> {
    if text.contains("//") {
        return Ok(PodReference::Uid(text.to_owned()));
    }
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(PodReference::Name { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        _ => Err("NAMESPACE/NAME, such as shop/page, or a uid, such as Kubernetes//Pod/shop/page".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// The command reference for users.
    const REFERENCE: &str = include_str!("../../docs/meshctl.md");

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_reference_has_every_command_and_option() {
        let command = Cli::command();
        let mut sections = vec![(&command, REFERENCE)];
        for sub in command.get_subcommands() {
            let heading = format!("\n### `meshctl {}", sub.get_name());
            let Some((_, section)) = REFERENCE.split_once(&heading) else { panic!("docs/meshctl.md lacks {heading:?}") };
            sections.push((sub, section.split("\n##").next().expect("split has a first part")));
        }
        for (command, section) in sections {
            for long in command.get_arguments().filter(|argument| !argument.is_hide_set()).filter_map(|a| a.get_long()) {
                assert!(section.contains(&format!("--{long}")), "docs/meshctl.md: {} lacks --{long}", command.get_name());
            }
        }
    }

    #[test]
    fn enrolment_takes_what_a_pod_is() {
        let parse = |extra: &[&str]| {
            let base = ["meshctl", "enrol", "--netns", "/run/netns/p", "-n", "shop", "--name", "page"];
            Cli::try_parse_from(base.iter().chain(extra)).map(|cli| cli.command)
        };
        let Ok(Command::Enrol(pod)) = parse(&["--ip", "10.0.0.1,fd00::1", "--ip", "10.0.0.2"]) else { panic!("valid") };
        let addresses: Vec<_> = pod.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.1", "fd00::1", "10.0.0.2"]);
        assert_eq!(pod.service_account, "default");
        for bad in [&[] as &[&str], &["--ip", "10.0.0.256"], &["--ip", "10.0.0.1", "--socket", "/x", "--node", "a"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn pods_have_two_names() {
        let name = PodReference::Name { namespace: "shop".into(), name: "page".into() };
        assert_eq!(pod_reference("shop/page"), Ok(name));
        assert_eq!(pod_reference("K//Pod/shop/page"), Ok(PodReference::Uid("K//Pod/shop/page".into())));
        for bad in ["", "page", "/page", "shop/", "a/b/c"] {
            assert!(pod_reference(bad).is_err(), "{bad}");
        }
        for bad in [&["meshctl", "unenrol"] as &[&str], &["meshctl", "unenrol", "shop/page", "--uid", "u"]] {
            assert!(Cli::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }
}
