//! The kernel side and the node's probers, as the settings have them.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use tokio::task::AbortHandle;

use crate::{
    config::{Config, Probes},
    ebpf::{self, Kernel, PidNamespace, Probers},
    enrol::{Agent, kubelet, netns::Netns},
};

pub(super) fn open_kernel(config: &Config) -> Result<Kernel> {
    let cgroup = match &config.cgroup {
        Some(cgroup) => ebpf::cgroup2_in(cgroup),
        None => ebpf::cgroup2_root().context("no cgroup v2 hierarchy is mounted: name its root with --cgroup")?,
    };
    let processes = match config.probes {
        Probes::None => PidNamespace::First,
        Probes::Kubelet => PidNamespace::own().context("--probes kubelet: /proc/self/ns/pid")?,
    };
    let opened = Kernel::open_numbering(&config.bpffs, &cgroup, &config.instance, processes);
    opened.context("the kernel programs can not be set up")
}

/// Whose connections from this process's own network namespace are probes.
pub(super) struct Probing {
    kubelet: bool,
    cgroups: Vec<u64>,
    netns_cookie: u64,
}

impl Probing {
    pub(super) fn new(config: &Config) -> Result<Self> {
        let id = |path: &PathBuf| {
            let metadata = fs::metadata(path).with_context(|| format!("--probe-cgroup {}", path.display()))?;
            // On cgroup v2 a group's id is the inode of its folder.
            Ok(metadata.ino())
        };
        let cgroups = config.probe_cgroups.iter().map(id).collect::<Result<_>>()?;
        let own = Netns::open("/proc/self/ns/net").and_then(|netns| netns.cookie()).context("the node's own namespace")?;
        Ok(Self { kubelet: config.probes == Probes::Kubelet, cgroups, netns_cookie: own })
    }

    /// What goes on for ever, if anything does.
    pub(super) fn start(self, agent: &Arc<Agent>) -> Result<Option<AbortHandle>> {
        let Self { kubelet, cgroups, netns_cookie } = self;
        if kubelet {
            let follow = kubelet::follow(agent.clone(), "/proc".into(), netns_cookie, cgroups);
            return Ok(Some(tokio::spawn(follow).abort_handle()));
        }
        if !cgroups.is_empty() {
            let probers = Probers { cgroups, ..Probers::default() };
            agent.kernel.let_probes_through(netns_cookie, &probers).context("letting probes through")?;
        }
        Ok(None)
    }
}
