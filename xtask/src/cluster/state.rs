//! What a running cluster is, as other commands find it: a JSON file in its folder.

use std::{collections::BTreeMap, fs, io::ErrorKind, path::PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    address::{Dual, Families},
    layout::{ClusterName, Layout},
    process::Process,
};
use crate::workspace;

/// A cluster on this machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cluster {
    pub(crate) name: ClusterName,
    pub(crate) phase: Phase,
    /// The command that brings it up; means nothing afterwards.
    pub(super) maker: Process,
    pub(crate) families: Families,
    /// For clients anywhere on this machine; its server is `127.0.0.1` and a port of the machine's.
    pub(crate) kubeconfig: PathBuf,
    /// The API's address in the kubeconfig, once it is known.
    pub(crate) server: Option<String>,
    pub(crate) control: Control,
    pub(crate) nodes: Vec<Node>,
    /// A file a component: `kube-apiserver.log`, `node-1-kubelet.log`.
    pub(crate) logs: PathBuf,
    /// Where the programs are, a folder a module.
    pub(crate) programs: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    Starting,
    Up,
}

/// The control plane: processes in one network namespace that nodes and pods reach, and from which they are reached.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Control {
    /// The network namespace's file.
    pub(crate) netns: PathBuf,
    pub(crate) address: Dual,
    /// etcd as its clients in the namespace reach it.
    pub(crate) etcd: String,
    /// A kubeconfig for programs inside the namespace.
    pub(crate) kubeconfig: PathBuf,
    /// By component.
    pub(crate) processes: BTreeMap<String, Started>,
}

/// A program and how to start it again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) process: Process,
    pub(crate) command: Vec<String>,
}

/// A node: one process that is the first of its PID namespace, and with which everything of the node ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: Dual,
    pub(crate) pods: Dual,
    pub(crate) netns: PathBuf,
    /// Its group in each hierarchy, which is the root of the node's own view.
    pub(crate) cgroup: String,
    /// What is the node's own on disk.
    pub(crate) folder: PathBuf,
    pub(crate) init: Option<Process>,
}

impl Cluster {
    pub(super) fn layout(&self) -> Layout {
        Layout::new(self.name.clone())
    }

    pub(super) fn save(&self) -> Result<()> {
        workspace::write_atomically(&self.layout().state_file(), serde_json::to_string_pretty(self)?.as_bytes())
    }

    /// The state of a cluster; none when there is no cluster of this name.
    pub(super) fn load(layout: &Layout) -> Result<Option<Self>> {
        let file = layout.state_file();
        match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).with_context(|| format!("{} is damaged", file.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
        }
    }

    /// The running cluster of this name; without a name, the only one.
    pub(crate) fn find(name: Option<&ClusterName>) -> Result<Self> {
        let layout = choose(name)?;
        let cluster = Self::load(&layout)?.with_context(|| format!("there is no cluster {}", layout.name))?;
        if cluster.phase != Phase::Up {
            bail!("cluster {} is not up yet, or came up half: `cargo xtask cluster down --name {0}` removes it", layout.name);
        }
        Ok(cluster)
    }

    pub(crate) fn node(&self, name: &str) -> Result<&Node> {
        let names = || self.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.nodes.iter().find(|node| node.name == name);
        found.with_context(|| format!("cluster {} has no node {name}; it has {}", self.name, names()))
    }
}

/// The layout of the cluster of this name; without a name, of the only one.
pub(super) fn choose(name: Option<&ClusterName>) -> Result<Layout> {
    if let Some(name) = name {
        return Ok(Layout::new(name.clone()));
    }
    match Layout::all().as_slice() {
        [layout] => Ok(layout.clone()),
        [] => bail!("no cluster is up: `cargo xtask cluster up` makes one"),
        all => {
            let names: Vec<String> = all.iter().map(|layout| layout.name.to_string()).collect();
            bail!("which cluster? --name {}", names.join(", --name "))
        }
    }
}
