//! What the plugin says: results, errors with their codes (CNI specification 1.1, section 5), and versions.

use std::{error::Error, io, path::PathBuf};

use mesh_proto::cni::VERSIONS;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{api::ApiError, node::NodeError};

/// Why the plugin fails.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("version {found:?} of CNI is not spoken here")]
    Version { found: String },
    #[error("{variable} {problem}")]
    Environment { variable: &'static str, problem: String },
    #[error("the pod's network namespace {path:?} can not be found")]
    Netns {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the network configuration is no JSON of CNI's")]
    Decode {
        #[source]
        source: serde_json::Error,
    },
    #[error("the network configuration {problem}")]
    NetConf { problem: &'static str },
    #[error("the plugin's configuration {path:?} can not be read")]
    Configuration {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no runtime for the plugin")]
    Runtime {
        #[source]
        source: io::Error,
    },
    #[error("whether pod {pod} belongs to the mesh can not be asked")]
    Api {
        pod: String,
        #[source]
        source: ApiError,
    },
    #[error("the API server has another pod {pod} than the one that starts")]
    AnotherPod { pod: String },
    #[error("pod {pod} belongs to the mesh and is not captured")]
    Node {
        pod: String,
        #[source]
        source: NodeError,
    },
}

impl Failure {
    /// Of the specification; 100 and up are a plugin's own.
    pub fn code(&self) -> u32 {
        match self {
            Self::Version { .. } => 1,
            Self::Environment { .. } | Self::Netns { .. } => 4,
            Self::Configuration { .. } | Self::Runtime { .. } => 5,
            Self::Decode { .. } => 6,
            Self::NetConf { .. } => 7,
            // Try again later.
            Self::Api { .. } | Self::AnotherPod { .. } => 11,
            Self::Node { source, .. } if source.passes() => 11,
            Self::Node { .. } => 100,
        }
    }

    /// What to do about it.
    fn remedy(&self) -> &'static str {
        match self {
            Self::Version { .. } | Self::Environment { .. } | Self::Decode { .. } | Self::Netns { .. } => {
                "is this the plugin that the container runtime expects?"
            }
            Self::NetConf { .. } => "keelson-cni is chained by the node proxy: see the log of this node's pod of keelson-node",
            Self::Configuration { .. } => {
                "the node proxy writes it: is the pod of keelson-node running on this node? To take the mesh off the cluster: meshctl uninstall"
            }
            Self::Runtime { .. } => "is the node out of threads, memory or descriptors?",
            Self::Api { source, .. } => source.remedy(),
            Self::AnotherPod { .. } => "it was replaced a moment ago; the kubelet tries again",
            Self::Node { source, .. } => source.remedy(),
        }
    }

    /// With all its causes, on one line.
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        line
    }
}

/// The error as the container runtime reads it.
pub fn error(failure: &Failure, input: &[u8]) -> Value {
    json!({
        "cniVersion": version_of(input),
        "code": failure.code(),
        "msg": format!("keelson: {}", failure.chain()),
        "details": failure.remedy(),
    })
}

/// The answer to VERSION.
pub fn version(input: &[u8]) -> Value {
    json!({ "cniVersion": version_of(input), "supportedVersions": VERSIONS })
}

/// The version that the caller speaks, or our newest.
fn version_of(input: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Asked {
        cni_version: String,
    }
    let newest = VERSIONS[VERSIONS.len() - 1];
    serde_json::from_slice::<Asked>(input).map_or_else(|_| newest.to_owned(), |asked| asked.cni_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_and_what_to_do() {
        let failure = Failure::Configuration { path: "/x".into(), source: io::Error::other("gone") };
        let said = error(&failure, br#"{ "cniVersion": "0.4.0" }"#);
        assert_eq!(said["cniVersion"], "0.4.0");
        assert_eq!(said["code"], 5);
        assert_eq!(said["msg"], "keelson: the plugin's configuration \"/x\" can not be read: gone");
        assert!(said["details"].as_str().unwrap().contains("keelson-node"), "{said}");
    }

    #[test]
    fn the_newest_version_is_spoken_to_who_says_none() {
        assert_eq!(version(b"")["cniVersion"], "1.1.0");
        assert_eq!(version(br#"{ "cniVersion": "1.0.0" }"#)["cniVersion"], "1.0.0");
        assert_eq!(version(b"")["supportedVersions"].as_array().unwrap().len(), VERSIONS.len());
    }
}
