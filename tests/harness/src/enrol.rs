//! Asking a node's proxy to take a pod in, or to let it go: the part that a CNI plugin has in a real cluster.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{
    objects::PodName,
    options::Binaries,
    place::join_addresses,
    status::{NodeStatus, Phase, PodStatus},
};

/// Has the pod captured. When this returns, its application may start.
pub(crate) fn enrol(binaries: &Binaries, node: &NodeStatus, name: &PodName, pod: &PodStatus) -> Result<()> {
    let mut command = command(binaries, node, "enrol")?;
    command.arg("--netns").arg(&pod.place.netns);
    command.args(["--namespace", &name.namespace, "--name", &name.name]);
    command.args(["--service-account", &pod.service_account, "--ip", &join_addresses(&pod.addresses)]);
    if pod.phase != Phase::Pending {
        command.arg("--running");
    }
    run(command).with_context(|| format!("cannot enrol {name}"))
}

/// Has the capture released.
pub(crate) fn unenrol(binaries: &Binaries, node: &NodeStatus, name: &PodName) -> Result<()> {
    let mut command = command(binaries, node, "unenrol")?;
    command.arg(name.to_string());
    run(command).with_context(|| format!("cannot un-enrol {name}"))
}

fn command(binaries: &Binaries, node: &NodeStatus, verb: &str) -> Result<Command> {
    let mut command = Command::new(binaries.find("meshctl")?);
    command.arg(verb).arg("--socket").arg(&node.runtime).stdin(Stdio::null());
    Ok(command)
}

fn run(mut command: Command) -> Result<()> {
    let output = command.output().context("cannot run meshctl")?;
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
