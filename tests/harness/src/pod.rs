//! One pod on this machine: its network, its containers' processes, and what the folder is told of it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    os::unix::process::ExitStatusExt,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{
    cgroup,
    environment::{Downward, command_line},
    network,
    objects::{Container, Pod, Probe, RestartPolicy},
    place::Place,
    status::{NodeStatus, Phase, PodStatus, ProcessStatus},
};

/// Names of a pod's network parts.
#[derive(Debug)]
pub(crate) struct Wiring {
    /// The pod's namespace.
    pub(crate) netns: String,
    /// The node's namespace.
    pub(crate) node: String,
    /// The node's end of the link.
    pub(crate) link: String,
}

/// A pod that has a network, from creation until that is gone again.
#[derive(Debug)]
pub(crate) struct LivePod {
    pub(crate) spec: Pod,
    pub(crate) wiring: Wiring,
    pub(crate) status: PodStatus,
    containers: BTreeMap<String, ContainerState>,
    /// Set when deletion has begun: the time to stop being polite.
    deadline: Option<Instant>,
}

#[derive(Debug)]
enum ContainerState {
    Running(Child),
    /// Ended; to be started again at this time.
    Waiting(Instant),
    Ended {
        well: bool,
    },
}

impl LivePod {
    /// Makes the pod's network and cgroup. Its status says where everything is.
    pub(crate) fn create(spec: Pod, wiring: Wiring, status: PodStatus) -> Result<Self> {
        cgroup::create(&status.place.cgroup)?;
        network::make_pod(&wiring.node, &wiring.link, &wiring.netns, &status.addresses)?;
        Ok(Self { spec, wiring, status, containers: BTreeMap::new(), deadline: None })
    }

    pub(crate) fn started(&self) -> bool {
        self.status.phase != Phase::Pending
    }

    pub(crate) fn terminating(&self) -> bool {
        self.deadline.is_some()
    }

    /// Starts every container.
    pub(crate) fn start(&mut self) -> Result<()> {
        for container in self.spec.spec.containers.clone() {
            self.start_container(&container)?;
        }
        self.status.phase = Phase::Running;
        Ok(())
    }

    fn start_container(&mut self, container: &Container) -> Result<()> {
        let downward =
            Downward { pod: &self.spec, node: &self.status.node, uid: &self.status.uid, addresses: &self.status.addresses };
        let mut place = self.status.place.clone();
        place.environment = downward.environment(&self.status.place.environment, container)?;
        let words = command_line(container, &place.environment)?;
        let child = place.start(&words, &self.status.log, container.working_dir.as_deref())?;
        self.status.processes.extend(ProcessStatus::of(child.id()).map(|process| (container.name.clone(), process)));
        self.containers.insert(container.name.clone(), ContainerState::Running(child));
        Ok(())
    }

    /// Notices containers that ended, starts again what is due, asks probes. `true` if the status changed.
    pub(crate) fn look(&mut self, node: &NodeStatus) -> Result<bool> {
        let mut changed = false;
        for container in self.spec.spec.containers.clone() {
            let Some(state) = self.containers.get_mut(&container.name) else { continue };
            match state {
                ContainerState::Running(child) => {
                    let Some(exit) = child.try_wait().context("a container's process is not ours to wait for")? else {
                        continue;
                    };
                    let ending = exit.code().map_or_else(
                        || format!("was killed by signal {}", exit.signal().unwrap_or_default()),
                        |code| format!("exited with {code}"),
                    );
                    *state = after_exit(self.spec.spec.restart_policy, exit.success(), self.status.restarts);
                    self.status.processes.remove(&container.name);
                    self.status.ready = false;
                    self.status.message = Some(format!("container {} {ending}", container.name));
                    changed = true;
                }
                ContainerState::Waiting(due) if *due <= Instant::now() => {
                    self.status.restarts += 1;
                    self.start_container(&container)?;
                    changed = true;
                }
                ContainerState::Waiting(_) | ContainerState::Ended { .. } => {}
            }
        }
        self.settle_phase();
        if !self.status.ready && self.serves(node) {
            self.status.ready = true;
            self.status.message = None;
            changed = true;
        }
        Ok(changed)
    }

    fn settle_phase(&mut self) {
        if self.containers.is_empty() || !self.containers.values().all(|state| matches!(state, ContainerState::Ended { .. })) {
            return;
        }
        let well = self.containers.values().all(|state| matches!(state, ContainerState::Ended { well: true }));
        self.status.phase = if well { Phase::Succeeded } else { Phase::Failed };
    }

    /// Whether every container runs and its probe, if it has one, succeeds.
    fn serves(&self, node: &NodeStatus) -> bool {
        self.started()
            && self.spec.spec.containers.iter().all(|container| {
                let running = matches!(self.containers.get(&container.name), Some(ContainerState::Running(_)));
                running && container.readiness_probe.as_ref().is_none_or(|probe| self.probe(node, container, probe))
            })
    }

    /// A probe is a process on the node, as the kubelet is: neither in a pod's namespace nor in a pod's cgroup.
    fn probe(&self, node: &NodeStatus, container: &Container, probe: &Probe) -> bool {
        let Some(address) = self.status.addresses.first().copied() else { return false };
        let (port, path) = match (&probe.http_get, &probe.tcp_socket) {
            (Some(get), _) => (get.port.of(container), Some(get.path.as_str())),
            (None, Some(tcp)) => (tcp.port.of(container), None),
            // A kind of probe that we do not know can not hold a pod up.
            (None, None) => return true,
        };
        let Some(port) = port else { return false };
        let target = SocketAddr::new(address, port).to_string();
        let words = [node.place.helper.display().to_string(), "probe".to_owned(), target];
        let place = Place { cgroup: node.cgroup.join("system/kubelet"), ..node.place.clone() };
        let mut command = place.command(&words);
        command.args(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|exit| exit.success())
    }

    /// Asks every process to end.
    pub(crate) fn begin_termination(&mut self) {
        self.deadline = Some(Instant::now() + Duration::from_secs(self.spec.spec.termination_grace_period_seconds));
        self.status.phase = Phase::Terminating;
        self.status.ready = false;
        for state in self.containers.values() {
            if let ContainerState::Running(child) = state {
                // Each container is a session of its own. One that has ended meanwhile is fine.
                let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
            }
        }
    }

    /// Whether nothing runs in the pod any more, or the time to be polite is over.
    pub(crate) fn may_be_removed(&mut self) -> bool {
        for state in self.containers.values_mut() {
            if let ContainerState::Running(child) = state {
                // Collects the ended, else they stay as zombies.
                let _ = child.try_wait();
            }
        }
        !cgroup::populated(&self.status.place.cgroup) || self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Kills what is left and takes the network away.
    pub(crate) fn remove(&mut self) -> Result<()> {
        cgroup::destroy(&self.status.place.cgroup)?;
        for state in self.containers.values_mut() {
            if let ContainerState::Running(child) = state {
                child.wait()?;
            }
        }
        self.containers.clear();
        network::remove_pod(&self.wiring.node, &self.wiring.link, &self.wiring.netns)
    }

    /// The `status` of the Pod object, in Kubernetes' form.
    pub(crate) fn kubernetes_status(&self, node: &NodeStatus) -> Value {
        let status = &self.status;
        let phase = match status.phase {
            // Kubernetes has no such phase: a deletion timestamp says it.
            Phase::Terminating => Phase::Running,
            other => other,
        };
        let addresses = |list: &[IpAddr]| list.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>();
        let condition = |kind: &str, holds: bool| json!({ "type": kind, "status": if holds { "True" } else { "False" } });
        let containers = self.spec.spec.containers.iter().map(|container| {
            let running = matches!(self.containers.get(&container.name), Some(ContainerState::Running(_)));
            json!({
                "name": container.name, "ready": status.ready, "started": running, "restartCount": status.restarts,
                "image": "", "imageID": "",
                "state": if running { json!({ "running": {} }) } else { json!({ "waiting": { "reason": "NotRunning" } }) },
            })
        });
        json!({
            "phase": phase,
            "podIP": status.addresses.first(),
            "podIPs": addresses(&status.addresses),
            "hostIP": node.addresses.first(),
            "hostIPs": addresses(&node.addresses),
            "conditions": [
                condition("PodScheduled", true), condition("Initialized", true),
                condition("ContainersReady", status.ready), condition("Ready", status.ready),
            ],
            "containerStatuses": containers.collect::<Vec<_>>(),
        })
    }
}

fn after_exit(policy: RestartPolicy, well: bool, restarts: u32) -> ContainerState {
    let again = match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => !well,
        RestartPolicy::Never => false,
    };
    if again { ContainerState::Waiting(Instant::now() + backoff(restarts)) } else { ContainerState::Ended { well } }
}

/// 0.2 s, doubled with every restart, at most 10 s.
pub(crate) fn backoff(failures: u32) -> Duration {
    Duration::from_millis(200).saturating_mul(1 << failures.min(10)).min(Duration::from_secs(10))
}
