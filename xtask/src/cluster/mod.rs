//! `cargo xtask cluster`: a real Kubernetes on this machine, for tests and for trying things.
//!
//! etcd, API server, controller manager, scheduler, kubelets, kube-proxies, containerd, CNI plugins and CoreDNS are built from
//! Go modules with pinned versions and checksums (`tests/cluster/tools`); runc is Debian's. A node is a set of namespaces
//! (network, mount, PID, UTS, IPC, cgroup) with a first process of its own; the control plane is a handful of processes in a
//! network namespace. Nothing is installed, and the machine's own network is not touched but for one port of its loopback
//! device, through which clients reach the API.
//!
//! Reading order: `up` (the steps), `programs`, `control`, `node` and `init` (a node from outside and from inside), `mounts`,
//! `down`. Everything carries the cluster's name: namespaces `/run/netns/kc-<name>-*`, control groups `kc-<name>`, the
//! folders `/run/keelson/cluster/<name>` and `/var/lib/keelson/cluster/<name>`. No record has to be complete for the cleaning
//! to be.

mod address;
mod certificates;
mod cgroup;
mod command;
mod control;
mod door;
mod down;
mod init;
pub(crate) mod interrupt;
mod kubectl;
mod layout;
mod mounts;
mod needs;
mod network;
mod node;
mod process;
mod programs;
mod runc;
mod shell;
mod smoke;
mod state;
mod status;
mod template;
mod up;

pub(crate) use command::{Arguments, run};
pub(crate) use {kubectl::Kubectl, layout::ClusterName, node::import, state::Cluster};
