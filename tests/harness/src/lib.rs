//! The laboratory: a Kubernetes-like cluster of network namespaces on one machine, made from a folder of YAML.
//!
//! It plays three parts that a real cluster has and Keelson does not bring along:
//!
//! - the **network**: a fabric (a bridge), one namespace per node, one per pod, routed like a simple CNI would;
//! - the **kubelet**: containers' commands run as processes in their pod's namespace, the pod's status goes into the folder
//!   (`.status/Pod/<namespace>/<name>.yaml`), pods come and go as their files do;
//! - the **installer**: one controller and one node proxy per node, unless [`LabOptions::mesh`] is off.
//!
//! Reading order: [`Lab::up`], `kubelet` (what a tick does), `network` and `netns` (what a pod's network is), `reaper` and
//! `guard` (how everything goes away whatever happens to the owner).
//!
//! Everything that a lab makes carries its id in its name and is found again by that name alone: namespaces
//! `/run/netns/kl-<id>-*`, the cgroup `kl-<id>`, the folder `/run/keelson/lab/<id>` with the BPF file system mounted in it.
//! No record has to be complete for the cleaning to be.

mod address;
mod capture;
mod cgroup;
mod client;
mod enrol;
mod environment;
pub mod envoy;
mod folder;
mod guard;
mod hosts;
pub mod http;
mod kubelet;
mod lab;
mod layout;
mod mesh;
pub mod netns;
mod network;
mod objects;
mod options;
mod place;
mod pod;
mod reaper;
mod status;
pub mod supervise;
pub mod task;
mod wait;

pub use crate::{
    address::{Family, OUTSIDE_V4, OUTSIDE_V6},
    capture::Capture,
    client::{down, exec, list, status},
    guard::entry,
    lab::Lab,
    netns::in_netns,
    options::{Binaries, LabOptions, copy_of},
    place::Place,
    reaper::leftovers,
    status::{ControllerStatus, LabStatus, NodeStatus, Phase, PodStatus, ProcessStatus},
    wait::wait_until,
};
