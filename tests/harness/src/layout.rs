//! The names that a lab's things carry: all follow from its id.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// Below it every lab has a folder of its own.
pub(crate) const LABS: &str = "/run/keelson/lab";
/// Where named network namespaces are mounted (`ip netns`).
pub(crate) const NETNS: &str = "/run/netns";

/// Names one lab on this machine: 1 to 12 of `a`–`z` and `0`–`9`.
///
/// No dash, so that no lab's prefix is the beginning of another's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct LabId(String);

impl LabId {
    /// A new random id of six letters.
    pub(crate) fn random() -> Self {
        Self(std::iter::repeat_with(|| fastrand::char('a'..='z')).take(6).collect())
    }
}

impl FromStr for LabId {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let allowed = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if text.is_empty() || text.len() > 12 || !allowed {
            bail!("{text:?} is no lab id: it has 1 to 12 characters, small letters and digits");
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for LabId {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<LabId> for String {
    fn from(id: LabId) -> Self {
        id.0
    }
}

impl fmt::Display for LabId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Where a lab's things are.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) id: LabId,
}

impl Layout {
    pub(crate) fn new(id: LabId) -> Self {
        Self { id }
    }

    /// The lab's folder, gone with the lab.
    pub(crate) fn state(&self) -> PathBuf {
        Path::new(LABS).join(&self.id.0)
    }

    /// What the lab is at the moment ([`crate::LabStatus`] as JSON).
    pub(crate) fn status_file(&self) -> PathBuf {
        self.state().join("lab.json")
    }

    /// The lab's own instance of the BPF file system: unmounting it drops every pin.
    pub(crate) fn bpffs(&self) -> PathBuf {
        self.state().join("bpf")
    }

    pub(crate) fn controller_state(&self) -> PathBuf {
        self.state().join("controller")
    }

    /// The runtime folder of a node's proxy, with its sockets.
    pub(crate) fn node_runtime(&self, node: &str) -> PathBuf {
        self.state().join("nodes").join(node)
    }

    /// The hosts file that pods of `namespace` see as `/etc/hosts`.
    pub(crate) fn hosts(&self, namespace: &str) -> PathBuf {
        self.state().join("hosts").join(namespace)
    }

    /// The prefix of every namespace, cgroup and process group of the lab.
    pub(crate) fn prefix(&self) -> String {
        format!("kl-{}", self.id)
    }

    pub(crate) fn fabric(&self) -> String {
        format!("{}-fabric", self.prefix())
    }

    pub(crate) fn controller_netns(&self) -> String {
        format!("{}-controller", self.prefix())
    }

    pub(crate) fn node_netns(&self, node: &str) -> String {
        format!("{}-node-{node}", self.prefix())
    }

    pub(crate) fn pod_netns(&self, namespace: &str, name: &str) -> String {
        format!("{}-pod-{namespace}.{name}", self.prefix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_short_and_plain() {
        for good in ["a", "demo", "t12", "abcdefghijkl"] {
            assert_eq!(good.parse::<LabId>().unwrap().to_string(), good);
        }
        for bad in ["", "Demo", "a-b", "a/b", "..", "abcdefghijklm"] {
            assert!(bad.parse::<LabId>().is_err(), "{bad}");
        }
        assert!(LabId::random().to_string().parse::<LabId>().is_ok());
    }
}
