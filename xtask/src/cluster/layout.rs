//! The names that a cluster's things carry: all follow from its own name, so that they are found again without a record.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// Below it every running cluster has a folder with its state: small, gone with a restart of the machine.
const RUNNING: &str = "/run/keelson/cluster";
/// Below it every cluster has a folder for what is large: the nodes' images and containers, etcd's data, logs.
const DATA: &str = "/var/lib/keelson/cluster";

/// Names one cluster on this machine: 1 to 12 of `a`–`z` and `0`–`9`.
///
/// No dash, so that no cluster's prefix is the beginning of another's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ClusterName(String);

impl FromStr for ClusterName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let allowed = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if text.is_empty() || text.len() > 12 || !allowed {
            bail!("{text:?} is no name of a cluster: it has 1 to 12 characters, small letters and digits");
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for ClusterName {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Where a cluster's things are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Layout {
    pub(super) name: ClusterName,
}

impl Layout {
    pub(super) fn new(name: ClusterName) -> Self {
        Self { name }
    }

    /// Every cluster of which there is state.
    pub(super) fn all() -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir(RUNNING) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse().ok());
        let mut all: Vec<Self> = names.map(Self::new).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The folder of the state and of what users are told to use.
    pub(super) fn running(&self) -> PathBuf {
        Path::new(RUNNING).join(&self.name.0)
    }

    /// [`super::state::Cluster`] as JSON.
    pub(super) fn state_file(&self) -> PathBuf {
        self.running().join("cluster.json")
    }

    /// For clients anywhere on this machine.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.running().join("kubeconfig")
    }

    pub(super) fn data(&self) -> PathBuf {
        Path::new(DATA).join(&self.name.0)
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.data().join("logs")
    }

    pub(super) fn certificates(&self) -> PathBuf {
        self.data().join("pki")
    }

    pub(super) fn control(&self) -> PathBuf {
        self.data().join("control")
    }

    pub(super) fn node(&self, node: &str) -> PathBuf {
        self.data().join(node)
    }

    /// The beginning of the names of namespaces and control groups.
    pub(super) fn prefix(&self) -> String {
        format!("kc-{}", self.name)
    }

    /// The network namespace of the control plane, with the bridge that joins the nodes.
    pub(super) fn control_netns(&self) -> String {
        format!("{}-control", self.prefix())
    }

    pub(super) fn node_netns(&self, node: &str) -> String {
        format!("{}-{node}", self.prefix())
    }

    /// Folders that several clusters share; the last one removes them.
    pub(super) fn shared() -> [&'static Path; 4] {
        [Path::new(RUNNING), Path::new("/run/keelson"), Path::new(DATA), Path::new("/var/lib/keelson")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_plain() {
        for good in ["a", "dev", "t12", "abcdefghijkl"] {
            assert_eq!(good.parse::<ClusterName>().unwrap().to_string(), good);
        }
        for bad in ["", "Dev", "a-b", "a/b", "..", "abcdefghijklm"] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad}");
        }
    }
}
