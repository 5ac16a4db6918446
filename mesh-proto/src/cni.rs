//! What the node tells the CNI plugin that it installs: a JSON file on the host, written by the one and read by the other.
//!
//! The two may be of different releases for a moment: fields are added with a default, and unknown ones ignored.

use std::{collections::BTreeSet, path::PathBuf};

use serde::{Deserialize, Serialize};

/// The plugin's name, as a network configuration has it in `type`.
pub const PLUGIN: &str = "keelson-cni";

/// The versions of the protocol that it speaks, the newest last.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginConfig {
    /// First part of a workload's uid.
    pub cluster: String,
    /// The node's enrolment socket.
    pub socket: PathBuf,
    /// Pods of these start without anybody being asked.
    pub exempt_namespaces: BTreeSet<String>,
    pub api: ApiServer,
    /// The label's value `ambient` means this mesh: istio-cni is not installed here.
    pub ambient: bool,
    /// How long a pod's start waits for who has to be asked, in seconds.
    pub wait_seconds: u64,
    /// What became of each pod, a line each.
    pub log: PathBuf,
}

/// How the API server is asked for pods and namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiServer {
    /// `https://host:port`.
    pub server: String,
    /// PEM file with the roots of its certificate.
    pub ca: PathBuf,
    /// File with a bearer token.
    pub token: PathBuf,
}
