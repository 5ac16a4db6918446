//! What a lab is at the moment: for tests, for `lab status`, and for whoever joins a running lab.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    layout::{LabId, Layout},
    objects::PodName,
    place::Place,
};

/// A lab and all in it. Stored as `lab.json` in the lab's folder, replaced atomically at every change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LabStatus {
    pub(crate) id: LabId,
    /// The process that the lab lives and dies with.
    pub owner: ProcessStatus,
    /// The process that cleans up after it.
    pub guard: u32,
    /// The folder of YAML.
    pub folder: PathBuf,
    /// The lab's own folder.
    pub state: PathBuf,
    /// Where logs are: one file per pod, node proxy and controller.
    pub logs: PathBuf,
    /// Whether controller and node proxies belong to it.
    pub mesh: bool,
    /// The network between the nodes, also the way to "outside" addresses.
    pub fabric: Place,
    /// The mesh controller, unless the lab has no mesh.
    pub controller: Option<ControllerStatus>,
    /// By name.
    pub nodes: BTreeMap<String, NodeStatus>,
    pub(crate) pods: BTreeMap<PodName, PodStatus>,
    /// What is wrong at the moment, in plain words: files that are not understood, pods that do not start.
    pub problems: Vec<String>,
}

impl LabStatus {
    /// The lab's id.
    pub fn id(&self) -> String {
        self.id.to_string()
    }

    /// All pods with their names, `namespace/name`.
    pub fn pods(&self) -> impl Iterator<Item = (String, &PodStatus)> {
        self.pods.iter().map(|(name, pod)| (name.to_string(), pod))
    }
}

/// A process: its id is only its own together with its time of birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// The process id.
    pub pid: u32,
    /// Clock ticks since boot (proc_pid_stat(5), field 22).
    pub started: u64,
}

impl ProcessStatus {
    /// The process with this id at the moment.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field, in parentheses, may contain anything.
        let fields = &stat[stat.rfind(')')? + 2..];
        let (state, started) = (fields.split(' ').next()?, fields.split(' ').nth(19)?);
        (state != "Z" && state != "X").then_some(Self { pid, started: started.parse().ok()? })
    }

    /// Whether this very process still runs.
    pub fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// The mesh controller.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ControllerStatus {
    /// Its host on the fabric.
    pub place: Place,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its process; none while it is down.
    pub process: Option<ProcessStatus>,
    /// The root certificate that nodes verify it by.
    pub ca_root: PathBuf,
    /// Its admin address, inside its namespace.
    pub admin: String,
    /// Its log.
    pub log: PathBuf,
}

/// A node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Counted from 1 in the order of names.
    pub index: usize,
    /// The node's own namespace, where its proxy runs.
    pub place: Place,
    /// Its addresses on the fabric.
    pub addresses: Vec<IpAddr>,
    /// The root of the node's control groups.
    pub cgroup: PathBuf,
    /// The proxy; none while it is down, or without a mesh.
    pub process: Option<ProcessStatus>,
    /// The proxy's runtime folder, with `enrol.sock` and `admin.sock`.
    pub runtime: PathBuf,
    /// The proxy's log.
    pub log: PathBuf,
}

/// How far a pod has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It has addresses; its containers do not run yet.
    Pending,
    /// Its containers run.
    Running,
    /// All containers ended well and will not be started again.
    Succeeded,
    /// A container ended badly and will not be started again.
    Failed,
    /// It is being deleted.
    Terminating,
}

/// A pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodStatus {
    /// Its node.
    pub node: String,
    /// Where its programs run.
    pub place: Place,
    /// The address of the primary family first.
    pub addresses: Vec<IpAddr>,
    /// Made up for this life of the pod unless its metadata has one.
    pub uid: String,
    /// Its service account.
    pub service_account: String,
    /// Whether it is in the mesh at the moment.
    pub enrolled: bool,
    /// How far it has come.
    pub phase: Phase,
    /// Whether it serves.
    pub ready: bool,
    /// Its containers' processes that run at the moment, by container.
    pub processes: BTreeMap<String, ProcessStatus>,
    /// How often a container was started again.
    pub restarts: u32,
    /// Its containers' output.
    pub log: PathBuf,
    /// Why it is not ready, if it is known.
    pub message: Option<String>,
}

impl PodStatus {
    /// Its IPv4 address.
    pub fn v4(&self) -> Option<IpAddr> {
        self.addresses.iter().copied().find(IpAddr::is_ipv4)
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> Option<IpAddr> {
        self.addresses.iter().copied().find(IpAddr::is_ipv6)
    }
}

/// The stored status of a lab, if it has come so far.
pub(crate) fn read(layout: &Layout) -> Option<LabStatus> {
    read_file(&layout.status_file())
}

pub(crate) fn read_file(path: &Path) -> Option<LabStatus> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
