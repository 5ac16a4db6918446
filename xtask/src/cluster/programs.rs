//! The programs that a cluster is made of (`tests/cluster/tools`).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::runc;
use crate::go::{Go, Module, no_stamps, program};

/// In the order in which they are needed, the quick ones first.
const MODULES: &[Module] = &[
    Module {
        folder: "tests/cluster/tools/certificates",
        project: None,
        programs: &[program("certificates", ".")],
        stamps: no_stamps,
    },
    Module { folder: "tests/cluster/tools/pause", project: None, programs: &[program("pause", ".")], stamps: no_stamps },
    Module {
        folder: "tests/cluster/tools/cni",
        project: Some("github.com/containernetworking/plugins"),
        programs: &[
            program("bridge", "github.com/containernetworking/plugins/plugins/main/bridge"),
            program("host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local"),
            program("loopback", "github.com/containernetworking/plugins/plugins/main/loopback"),
            program("portmap", "github.com/containernetworking/plugins/plugins/meta/portmap"),
            program("ptp", "github.com/containernetworking/plugins/plugins/main/ptp"),
        ],
        stamps: no_stamps,
    },
    Module {
        folder: "tests/cluster/tools/etcd",
        project: Some("go.etcd.io/etcd/server/v3"),
        programs: &[program("etcd", "go.etcd.io/etcd/server/v3")],
        stamps: no_stamps,
    },
    Module {
        folder: "tests/cluster/tools/kubernetes",
        project: Some("k8s.io/kubernetes"),
        programs: &[
            program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            program("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
            program("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            program("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            program("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            program("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ],
        stamps: kubernetes_stamps,
    },
    Module {
        folder: "tests/cluster/tools/containerd",
        project: Some("github.com/containerd/containerd/v2"),
        programs: &[
            program("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
            program("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
            program("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
        ],
        stamps: |version| vec![format!("github.com/containerd/containerd/v2/version.Version={version}")],
    },
    Module {
        folder: "tests/cluster/tools/coredns",
        project: Some("github.com/coredns/coredns"),
        programs: &[program("coredns", ".")],
        stamps: no_stamps,
    },
];

/// What Kubernetes says of itself, and what kubelet and API server compare with each other.
fn kubernetes_stamps(version: &str) -> Vec<String> {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    [("gitVersion", version), ("gitMajor", major), ("gitMinor", minor)]
        .map(|(variable, value)| format!("k8s.io/component-base/version.{variable}={value}"))
        .to_vec()
}

/// Where the programs of a cluster are: a folder a module.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    folders: Vec<(String, PathBuf)>,
}

impl Programs {
    /// Finds every program in the cache; builds what is not there, one after the other, which takes twenty minutes at the
    /// first time.
    pub(crate) fn find(root: &Path) -> Result<Self> {
        let go = Go::find()?;
        let mut folders = Vec::new();
        for module in MODULES {
            folders.push((module.name().to_owned(), module.built(root, &go)?));
        }
        folders.push(("runc".to_owned(), runc::find()?));
        Ok(Self { folders })
    }

    /// Modules by name, and where their programs are.
    pub(crate) fn folders(&self) -> &[(String, PathBuf)] {
        &self.folders
    }

    /// The file of a program.
    pub(crate) fn path(&self, program: &str) -> Result<PathBuf> {
        let files = self.folders.iter().map(|(_, folder)| folder.join(program));
        files.into_iter().find(|file| file.exists()).with_context(|| format!("no program {program} was built"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn every_module_is_there_and_pinned() {
        let root = workspace::root().unwrap();
        for module in MODULES {
            let folder = root.join(module.folder);
            assert!(!module.version(&folder).unwrap().is_empty(), "{}", module.folder);
            assert_eq!(folder.join("go.sum").exists(), module.project.is_some(), "{}", module.folder);
        }
    }

    #[test]
    fn kubernetes_knows_its_version() {
        let stamps = kubernetes_stamps("v1.35.3");
        assert!(stamps.contains(&"k8s.io/component-base/version.gitMinor=35".to_owned()), "{stamps:?}");
    }
}
