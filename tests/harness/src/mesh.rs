//! The programs of the mesh in the lab: their command lines, all in this file, and their processes.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    address::{self, Family},
    http,
    layout::Layout,
    netns::in_netns,
    options::Binaries,
    status::{LabStatus, NodeStatus, ProcessStatus},
    wait::wait_while_alive,
};

/// Where the controller serves nodes.
const XDS_PORT: u16 = 15012;
/// The controller's admin address.
pub(crate) const CONTROLLER_ADMIN: &str = "127.0.0.1:15014";
/// Where a node proxy says whether it is ready, inside the node's namespace.
const NODE_READY: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15021);

/// The running programs, by node; the controller has none.
#[derive(Debug, Default)]
pub(crate) struct Mesh {
    controller: Option<Child>,
    nodes: BTreeMap<String, Child>,
}

/// What stays the same as long as the lab lives.
#[derive(Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) binaries: &'a Binaries,
    /// Further arguments of the controller and of every node proxy.
    pub(crate) controller_arguments: &'a [String],
    pub(crate) node_arguments: &'a [String],
}

impl Mesh {
    /// Starts the controller and waits until its certificate authority stands.
    pub(crate) fn start_controller(&mut self, setting: &Setting, lab: &LabStatus, patience: Duration) -> Result<ProcessStatus> {
        let controller = lab.controller.as_ref().context("the lab has no mesh")?;
        let child = controller.place.start(&controller_command(setting, &lab.folder)?, &controller.log, None)?;
        let process = self.controller.insert(child);
        wait_while_alive("the controller to serve", patience, (&mut *process, &controller.log), || {
            let serves = || std::net::TcpStream::connect_timeout(&controller_address(Family::V4), Duration::from_secs(1)).is_ok();
            Ok(controller.ca_root.exists() && in_netns(&controller.place.netns, serves)?)
        })?;
        ProcessStatus::of(process.id()).context("mesh-controller has just ended")
    }

    /// Starts a node's proxy and waits until it takes pods in.
    pub(crate) fn start_node(
        &mut self,
        setting: &Setting,
        lab: &LabStatus,
        name: &str,
        patience: Duration,
    ) -> Result<ProcessStatus> {
        let node = lab.nodes.get(name).with_context(|| format!("no node {name}"))?;
        let controller = lab.controller.as_ref().context("the lab has no mesh")?;
        let token = write_token(setting, name, node)?;
        let command = node_command(setting, name, node, &controller.ca_root, &token)?;
        let child = node.place.start(&command, &node.log, None)?;
        self.nodes.insert(name.to_owned(), child);
        let process = self.nodes.get_mut(name).expect("it was inserted just now");
        let what = format!("the proxy of {name} to be ready");
        wait_while_alive(&what, patience, (&mut *process, &node.log), || {
            let answer = in_netns(&node.place.netns, || http::get(NODE_READY.into(), "/healthz/ready", Duration::from_secs(1)))??;
            Ok(answer.status == 200 && node.runtime.join("enrol.sock").exists())
        })?;
        ProcessStatus::of(process.id()).context("mesh-node has just ended")
    }

    /// Kills the controller at once (SIGKILL).
    pub(crate) fn kill_controller(&mut self) -> Result<()> {
        self.controller.take().map_or(Ok(()), end)
    }

    /// Kills a node's proxy at once (SIGKILL).
    pub(crate) fn kill_node(&mut self, name: &str) -> Result<()> {
        self.nodes.remove(name).map_or(Ok(()), end)
    }

    /// Notices programs that ended by themselves; returns what to tell about each.
    pub(crate) fn ended(&mut self) -> Vec<(Option<String>, String)> {
        let mut news = Vec::new();
        if let Some(exit) = self.controller.as_mut().and_then(|child| child.try_wait().ok()?) {
            self.controller = None;
            news.push((None, format!("mesh-controller ended by itself: {exit}")));
        }
        self.nodes.retain(|name, child| match child.try_wait() {
            Ok(Some(exit)) => {
                news.push((Some(name.clone()), format!("mesh-node of {name} ended by itself: {exit}")));
                false
            }
            _ => true,
        });
        news
    }
}

fn controller_command(setting: &Setting, folder: &Path) -> Result<Vec<String>> {
    let mut command = vec![
        text(&setting.binaries.find("mesh-controller")?),
        format!("--source=folder:{}", folder.display()),
        format!("--state={}", setting.layout.controller_state().display()),
        format!("--listen=[::]:{XDS_PORT}"),
        format!("--admin={CONTROLLER_ADMIN}"),
        format!("--san={}", address::controller(Family::V4)),
        format!("--san={}", address::controller(Family::V6)),
    ];
    command.extend_from_slice(setting.controller_arguments);
    Ok(command)
}

fn node_command(setting: &Setting, name: &str, node: &NodeStatus, ca_root: &Path, token: &Path) -> Result<Vec<String>> {
    let mut command = vec![
        text(&setting.binaries.find("mesh-node")?),
        format!("--name={name}"),
        format!("--instance={}-{name}", setting.layout.id),
        format!("--runtime-dir={}", node.runtime.display()),
        format!("--controller=https://{}", controller_address(Family::V4)),
        format!("--ca-root={}", ca_root.display()),
        format!("--token-file={}", token.display()),
        format!("--cgroup={}", node.cgroup.display()),
        format!("--probe-cgroup={}", node.cgroup.join("system/kubelet").display()),
        format!("--bpffs={}", setting.layout.bpffs().display()),
    ];
    command.extend_from_slice(setting.node_arguments);
    Ok(command)
}

/// A token is what a node proves its name by; in Kubernetes its service account's.
fn write_token(setting: &Setting, name: &str, node: &NodeStatus) -> Result<PathBuf> {
    let output = Command::new(setting.binaries.find("mesh-controller")?)
        .args(["token", "--state", &text(&setting.layout.controller_state()), name])
        .output()
        .context("cannot run mesh-controller")?;
    if !output.status.success() {
        bail!("no token for {name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let path = node.runtime.join("token");
    let write = || {
        fs::create_dir_all(&node.runtime)?;
        fs::write(&path, output.stdout.trim_ascii())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn controller_address(family: Family) -> SocketAddr {
    (address::controller(family), XDS_PORT).into()
}

fn end(mut child: Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
