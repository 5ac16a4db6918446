//! A lab that this process owns: up, used, down.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{self, Child, Output, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};

use crate::{
    address::{self, Family, MAX_NODES},
    capture::Capture,
    cgroup,
    folder::{Folder, write_atomically},
    guard::Guard,
    kubelet::Kubelet,
    layout::{LabId, Layout},
    mesh::{CONTROLLER_ADMIN, Mesh, Setting},
    netns, network,
    objects::{Objects, PodName},
    options::LabOptions,
    place::{Place, base_environment},
    reaper,
    status::{ControllerStatus, LabStatus, NodeStatus, PodStatus, ProcessStatus},
    wait::wait_until,
};

const BOTH: [Family; 2] = [Family::V4, Family::V6];

/// A running lab. It goes down when dropped, and also when this process ends in any way.
#[derive(Debug)]
pub struct Lab {
    shared: Arc<Shared>,
    kubelet: Option<JoinHandle<()>>,
    /// Last: dropping it waits for the end of everything.
    guard: Guard,
}

/// What the API and the kubelet's thread both use.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: LabOptions,
    pub(crate) layout: Layout,
    pub(crate) logs: PathBuf,
    /// As they were made; their processes are in `status`.
    pub(crate) nodes: BTreeMap<String, NodeStatus>,
    status: Mutex<LabStatus>,
    mesh: Mutex<Mesh>,
    progress: Mutex<Progress>,
    wake: Condvar,
}

/// The kubelet's thread and those who wait for it.
#[derive(Debug, Default)]
struct Progress {
    stop: bool,
    /// Ticks begun and ended so far.
    begun: u64,
    ended: u64,
    /// Whether the last tick left nothing to do.
    settled: bool,
}

impl Lab {
    /// Makes the network, starts the mesh and every pod of the folder, and returns when all are ready.
    pub fn up(options: LabOptions) -> Result<Self> {
        Self::up_with(options, |_| ())
    }

    /// The same, telling each step to somebody who waits.
    pub fn up_with(options: LabOptions, mut progress: impl FnMut(&str)) -> Result<Self> {
        let options = options.with_whole_paths()?;
        let id = options.id.as_deref().map_or_else(|| Ok(LabId::random()), str::parse)?;
        let layout = Layout::new(id);
        if layout.state().exists() {
            bail!("there is a lab {} already: `cargo xtask lab down --id {}` removes it", layout.id, layout.id);
        }
        let helper = options.binaries.find("lab-guard")?;
        let guard = Guard::start(&helper, &layout)?;
        // From here on an early return drops the guard, which takes apart whatever there is by then.
        progress("network");
        let (shared, folder, objects) = Shared::build(options, layout, &helper, guard.pid())?;
        let shared = Arc::new(shared);
        let mut lab = Self { shared, kubelet: None, guard };
        lab.start_mesh(&mut progress)?;
        progress(&format!("{} pods", objects.pods.len()));
        let shared = lab.shared.clone();
        let kubelet = thread::Builder::new().name("kubelet".to_owned());
        lab.kubelet = Some(kubelet.spawn(move || Kubelet::new(&shared, folder, objects).run())?);
        lab.settle(lab.shared.options.deadline)?;
        Ok(lab)
    }

    /// Ends everything that runs in the lab and removes all of it; an error says what could not be removed.
    pub fn down(mut self) -> Result<()> {
        self.stop_kubelet();
        self.guard.release()?;
        let left = reaper::leftovers(&self.id())?;
        if !left.is_empty() {
            bail!("lab {} left behind: {}", self.id(), left.join(", "));
        }
        Ok(())
    }

    /// The lab's id.
    pub fn id(&self) -> String {
        self.shared.layout.id.to_string()
    }

    /// What the lab is at the moment.
    pub fn status(&self) -> LabStatus {
        self.shared.status().clone()
    }

    /// The pod `namespace/name`.
    pub fn pod(&self, name: &str) -> Result<PodStatus> {
        let name: PodName = name.parse()?;
        self.shared.status().pods.get(&name).cloned().with_context(|| format!("no pod {name} in this lab"))
    }

    /// The node with this name.
    pub fn node(&self, name: &str) -> Result<NodeStatus> {
        self.shared.status().nodes.get(name).cloned().with_context(|| format!("no node {name} in this lab"))
    }

    /// The controller; an error in a lab without a mesh.
    pub fn controller(&self) -> Result<ControllerStatus> {
        self.shared.status().controller.clone().context("this lab has no mesh")
    }

    /// Runs a program in a pod to its end and returns what it printed.
    pub fn exec(&self, pod: &str, argv: &[impl AsRef<OsStr>]) -> Result<Output> {
        let mut command = self.pod(pod)?.place.command(argv);
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run a program in {pod}"))
    }

    /// Starts a program in a pod, its streams piped. Killing and waiting are the caller's, or the lab's at its end.
    pub fn spawn_in(&self, pod: &str, argv: &[impl AsRef<OsStr>]) -> Result<Child> {
        let mut command = self.pod(pod)?.place.command(argv);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().with_context(|| format!("cannot run a program in {pod}"))
    }

    /// Runs a program in a node's own namespace to its end (`nft`, `ss`, `ip`).
    pub fn exec_on_node(&self, node: &str, argv: &[impl AsRef<OsStr>]) -> Result<Output> {
        let mut command = self.node(node)?.place.command(argv);
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run a program on {node}"))
    }

    /// Loads an nftables ruleset in a node's namespace; it stays as long as the lab.
    pub fn nft(&self, node: &str, ruleset: &str) -> Result<()> {
        let output = self.exec_on_node(node, &["nft", ruleset])?;
        if !output.status.success() {
            bail!("nft on {node}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Records what passes between a node and the fabric until the capture is ended.
    pub fn capture(&self, node: &str, filter: &str) -> Result<Capture> {
        Capture::start(&self.node(node)?, &self.shared.layout.state(), filter)
    }

    /// Waits until every pod of the folder, as it is now, is ready (or has ended for good) and no other is left.
    pub fn settle(&self, deadline: Duration) -> Result<()> {
        let first = self.shared.progress().begun + 1;
        self.shared.wake.notify_all();
        let settled = wait_until("the lab to settle", deadline, || {
            let progress = self.shared.progress();
            // A tick that began before this call may not have seen the folder's last change.
            Ok(progress.ended >= first && progress.settled)
        });
        settled.with_context(|| self.describe_unsettled())
    }

    fn describe_unsettled(&self) -> String {
        let status = self.shared.status();
        let waiting = status.pods.iter().filter(|(_, pod)| !pod.ready);
        let mut lines: Vec<String> = waiting
            .map(|(name, pod)| {
                let reason = pod.message.as_deref().unwrap_or("not ready");
                format!("{name} is {:?}: {reason}; {}", pod.phase, last_line(&pod.log))
            })
            .collect();
        lines.extend(status.problems.iter().cloned());
        lines.join("\n")
    }

    /// Writes `<folder>/<file>`, all at once, and waits until the lab has settled on it.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        write_atomically(&self.folder().join(file), text)?;
        self.settle(self.shared.options.deadline)
    }

    /// Removes `<folder>/<file>` and waits until what it described is gone.
    pub fn remove(&self, file: &str) -> Result<()> {
        let path = self.folder().join(file);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        self.settle(self.shared.options.deadline)
    }

    /// The folder of YAML.
    pub fn folder(&self) -> PathBuf {
        self.shared.status().folder.clone()
    }

    /// Kills the controller at once (SIGKILL).
    pub fn kill_controller(&self) -> Result<()> {
        self.shared.mesh().kill_controller()?;
        self.shared.change(|status| {
            if let Some(controller) = &mut status.controller {
                controller.process = None;
            }
        })
    }

    /// Starts the controller and waits until it serves; kills it first if it runs.
    pub fn restart_controller(&self) -> Result<()> {
        self.kill_controller()?;
        let lab = self.status();
        let patience = self.shared.options.deadline;
        let process = self.shared.mesh().start_controller(&self.shared.setting(), &lab, patience)?;
        self.shared.change(|status| {
            if let Some(controller) = &mut status.controller {
                controller.process = Some(process);
            }
        })
    }

    /// Kills a node's proxy at once (SIGKILL); its kernel programs stay.
    pub fn kill_node(&self, name: &str) -> Result<()> {
        self.shared.mesh().kill_node(name)?;
        self.shared.set_node_process(name, None)
    }

    /// Starts a node's proxy and waits until it is ready; kills it first if it runs.
    pub fn restart_node(&self, name: &str) -> Result<()> {
        self.kill_node(name)?;
        let lab = self.status();
        let patience = self.shared.options.deadline;
        let process = self.shared.mesh().start_node(&self.shared.setting(), &lab, name, patience)?;
        self.shared.set_node_process(name, Some(process))
    }

    fn start_mesh(&self, progress: &mut impl FnMut(&str)) -> Result<()> {
        if !self.shared.options.mesh {
            return Ok(());
        }
        progress("controller");
        self.restart_controller()?;
        for name in self.shared.nodes.keys() {
            progress(name);
            self.restart_node(name)?;
        }
        Ok(())
    }

    fn stop_kubelet(&mut self) {
        self.shared.progress().stop = true;
        self.shared.wake.notify_all();
        if let Some(kubelet) = self.kubelet.take()
            && kubelet.join().is_err()
        {
            eprintln!("lab: the kubelet's thread had panicked");
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop_kubelet();
    }
}

impl Shared {
    /// Everything up to the first process: folder, cgroups, namespaces.
    fn build(options: LabOptions, layout: Layout, helper: &Path, guard: u32) -> Result<(Self, Folder, Objects)> {
        fs::create_dir_all(layout.state()).with_context(|| format!("cannot make {}: are you root?", layout.state().display()))?;
        let mut folder = Folder::claim(&options.folder, &layout.id)?;
        folder.refresh()?;
        if !folder.problems().is_empty() {
            bail!("{}", folder.problems().join("\n"));
        }
        let objects = folder.objects();
        let logs = options.log_dir.clone().unwrap_or_else(|| layout.state().join("logs"));
        let group = cgroup::of_lab(&layout)?;
        let environment = base_environment(&options.binaries.folder, &options.environment);
        let place = |netns: String, group: PathBuf| Place {
            netns: netns::path(&netns),
            cgroup: group,
            hosts: None,
            environment: environment.clone(),
            helper: helper.to_owned(),
        };
        let names = node_names(&objects);
        if names.len() > MAX_NODES {
            bail!("{} nodes are too many: at most {MAX_NODES}", names.len());
        }
        let nodes: BTreeMap<String, NodeStatus> = (1..)
            .zip(&names)
            .map(|(index, name)| {
                let node = NodeStatus {
                    index,
                    place: place(layout.node_netns(name), group.join(name).join("system/mesh-node")),
                    addresses: BOTH.map(|family| address::node(family, index)).to_vec(),
                    cgroup: group.join(name),
                    process: None,
                    runtime: layout.node_runtime(name),
                    log: logs.join(format!("{name}.log")),
                };
                (name.clone(), node)
            })
            .collect();
        let controller = options.mesh.then(|| ControllerStatus {
            place: place(layout.controller_netns(), group.join("controller")),
            addresses: BOTH.map(address::controller).to_vec(),
            process: None,
            ca_root: layout.controller_state().join("root-cert.pem"),
            admin: CONTROLLER_ADMIN.to_owned(),
            log: logs.join("controller.log"),
        });
        let status = LabStatus {
            id: layout.id.clone(),
            owner: ProcessStatus::of(process::id()).context("this process is not in /proc")?,
            guard,
            folder: folder.path().to_owned(),
            state: layout.state(),
            logs: logs.clone(),
            mesh: options.mesh,
            fabric: place(layout.fabric(), group.join("fabric")),
            controller,
            nodes: nodes.clone(),
            pods: BTreeMap::new(),
            problems: Vec::new(),
        };
        let (mesh, progress, wake) = (Mutex::default(), Mutex::default(), Condvar::new());
        let shared = Self { options, layout, logs, nodes, status: Mutex::new(status), mesh, progress, wake };
        // Stored before anything else is made: the guard finds the folder in it.
        shared.change(|_| ())?;
        shared.build_network()?;
        Ok((shared, folder, objects))
    }

    fn build_network(&self) -> Result<()> {
        let status = self.status();
        cgroup::create(&status.fabric.cgroup)?;
        let fabric = self.layout.fabric();
        network::make_fabric(&fabric)?;
        if let Some(controller) = &status.controller {
            cgroup::create(&controller.place.cgroup)?;
            network::make_controller(&fabric, &self.layout.controller_netns())?;
            mount_bpffs(&self.layout.bpffs())?;
        }
        for (name, node) in &self.nodes {
            cgroup::create(&node.place.cgroup)?;
            cgroup::create(&node.cgroup.join("system/kubelet"))?;
            cgroup::create(&node.cgroup.join("kubepods"))?;
            network::make_node(&fabric, &self.layout.node_netns(name), node.index, self.nodes.len())?;
        }
        Ok(())
    }

    /// What programs of the lab have in their environment.
    pub(crate) fn environment(&self) -> BTreeMap<String, String> {
        base_environment(&self.options.binaries.folder, &self.options.environment)
    }

    /// Pauses the kubelet's thread; `true` if it has to end.
    pub(crate) fn rest(&self, pause: Duration, settled: bool) -> bool {
        let mut progress = self.progress();
        progress.ended = progress.begun;
        progress.settled = settled;
        if !progress.stop {
            let waited = self.wake.wait_timeout(progress, pause);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        progress.begun += 1;
        progress.stop
    }

    /// Makes the kubelet's view the public one; `pods` only if they changed.
    pub(crate) fn publish(&self, pods: Option<BTreeMap<PodName, PodStatus>>, mut problems: Vec<String>) -> Result<()> {
        let ended = self.mesh.try_lock().map(|mut mesh| mesh.ended()).unwrap_or_default();
        for (node, _) in &ended {
            match node {
                Some(node) => self.set_node_process(node, None)?,
                None => self.change(|status| {
                    if let Some(controller) = &mut status.controller {
                        controller.process = None;
                    }
                })?,
            }
        }
        problems.extend(ended.into_iter().map(|(_, news)| news));
        if pods.is_none() && problems == self.status().problems {
            return Ok(());
        }
        self.change(|status| {
            if let Some(pods) = pods {
                status.pods = pods;
            }
            status.problems = problems;
        })
    }

    fn set_node_process(&self, name: &str, process: Option<ProcessStatus>) -> Result<()> {
        self.change(|status| {
            if let Some(node) = status.nodes.get_mut(name) {
                node.process = process;
            }
        })
    }

    /// Changes the status and stores it.
    fn change(&self, change: impl FnOnce(&mut LabStatus)) -> Result<()> {
        let mut status = self.status();
        change(&mut status);
        write_atomically(&self.layout.status_file(), &serde_json::to_string_pretty(&*status)?)
    }

    fn setting(&self) -> Setting<'_> {
        let LabOptions { binaries, controller_arguments, node_arguments, .. } = &self.options;
        Setting { layout: &self.layout, binaries, controller_arguments, node_arguments }
    }

    fn status(&self) -> MutexGuard<'_, LabStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mesh(&self) -> MutexGuard<'_, Mesh> {
        self.mesh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The folder's Node objects; without any, every node that a pod names; without those, one.
fn node_names(objects: &Objects) -> BTreeSet<String> {
    if !objects.nodes.is_empty() {
        return objects.nodes.clone();
    }
    let named: BTreeSet<String> = objects.pods.values().filter_map(|pod| pod.spec.node_name.clone()).collect();
    if named.is_empty() { BTreeSet::from(["node-1".to_owned()]) } else { named }
}

/// An instance of its own: nothing that is pinned in it outlives its mount.
fn mount_bpffs(target: &Path) -> Result<()> {
    fs::create_dir_all(target)?;
    mount(Some("bpf"), target, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .with_context(|| format!("cannot mount a BPF file system at {}", target.display()))
}

fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().last().map_or_else(|| "its log is empty".to_owned(), |line| format!("its log ends: {line}"))
}
