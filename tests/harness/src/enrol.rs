//! Asking a node's proxy to take a pod in, or to let it go: the part that a CNI plugin has in a real cluster.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    objects::PodName,
    options::Binaries,
    place::join_addresses,
    status::{NodeStatus, PodStatus},
};

/// Has the pod captured. When this returns, its application may start.
pub(crate) fn enrol(binaries: &Binaries, node: &NodeStatus, name: &PodName, pod: &PodStatus) -> Result<()> {
    let mut command = Command::new(binaries.find("meshctl")?);
    command.arg("enrol").arg("--socket").arg(socket(&node.runtime));
    command.arg("--netns").arg(&pod.place.netns);
    command.args(["--namespace", &name.namespace, "--name", &name.name]);
    command.args(["--service-account", &pod.service_account, "--uid", &pod.uid]);
    command.args(["--ip", &join_addresses(&pod.addresses)]);
    run(command).with_context(|| format!("cannot enrol {name}"))
}

/// Has the capture released.
pub(crate) fn unenrol(binaries: &Binaries, node: &NodeStatus, name: &PodName, pod: &PodStatus) -> Result<()> {
    let mut command = Command::new(binaries.find("meshctl")?);
    command.arg("unenrol").arg("--socket").arg(socket(&node.runtime)).args(["--uid", &pod.uid]);
    run(command).with_context(|| format!("cannot un-enrol {name}"))
}

fn socket(runtime: &Path) -> std::path::PathBuf {
    runtime.join("enrol.sock")
}

fn run(mut command: Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
