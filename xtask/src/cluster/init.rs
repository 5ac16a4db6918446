//! The first process of a node: makes the node's view of the machine, starts containerd, kubelet and kube-proxy, and stays to
//! take in what other processes leave behind. When it ends, the kernel ends everything else of the node.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::Write,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    sys::wait::{WaitPidFlag, waitpid},
    unistd::Pid,
};
use sha2::{Digest, Sha256};

use super::{
    mounts::{self, NODE},
    node::NodeSpec,
};

/// How long containerd may take to answer.
const PATIENCE: Duration = Duration::from_mins(2);

const SOCKET: &str = "/run/containerd/containerd.sock";

/// Ends with an error only.
pub(super) fn run(spec: &str) -> Result<()> {
    let spec: NodeSpec = serde_json::from_str(spec).context("read the node's description")?;
    // Opened while their folder is still to be seen.
    let log = |component: &str| {
        let file = spec.logs.join(format!("{}-{component}.log", spec.name));
        OpenOptions::new().create(true).append(true).open(&file).with_context(|| format!("open {}", file.display()))
    };
    let logs = [log("containerd")?, log("kubelet")?, log("kube-proxy")?];
    mounts::prepare(&spec)?;
    fs::write("/proc/sys/kernel/hostname", &spec.name).context("name the node")?;
    settings(&spec)?;
    components(&spec, logs)?;
    reap()
}

/// Files that every machine has one of.
fn settings(spec: &NodeSpec) -> Result<()> {
    let hosts = spec
        .hosts
        .iter()
        .fold("127.0.0.1 localhost\n::1 localhost\n".to_owned(), |text, (address, name)| format!("{text}{address} {name}\n"));
    let name_servers = spec.name_servers.iter().fold(String::new(), |text, address| format!("{text}nameserver {address}\n"));
    let machine_id = format!("{:x}", Sha256::digest(&spec.cgroup))[..32].to_owned();
    fs::create_dir_all("/etc/cni/net.d")?;
    let network = fs::read_to_string(Path::new(NODE).join("config/bridge.conflist")).context("read the pods' network")?;
    // What the machine has there is not the node's.
    for entry in fs::read_dir("/etc/cni/net.d")? {
        fs::remove_file(entry?.path())?;
    }
    for (file, text) in [
        ("/etc/hostname", format!("{}\n", spec.name)),
        ("/etc/hosts", hosts),
        ("/etc/resolv.conf", name_servers),
        ("/etc/machine-id", format!("{machine_id}\n")),
        ("/etc/cni/net.d/10-bridge.conflist", network),
    ] {
        // Often a link to what another program writes.
        let _ = fs::remove_file(file);
        fs::write(file, text).with_context(|| format!("write {file} of the node"))?;
    }
    Ok(())
}

fn components(spec: &NodeSpec, [containerd, kubelet, kube_proxy]: [File; 3]) -> Result<()> {
    let config = |name: &str| Path::new(NODE).join("config").join(name).display().to_string();
    spawn("containerd", &["--config".to_owned(), config("containerd.toml")], containerd)?;
    let end = Instant::now() + PATIENCE;
    while !(Path::new(SOCKET).exists() && ctr(&["version"]).is_ok()) {
        ensure!(Instant::now() < end, "containerd does not answer: see {}-containerd.log", spec.name);
        thread::sleep(Duration::from_millis(50));
    }
    ctr(&["--namespace", "k8s.io", "images", "import", &config("pause.tar")])?;
    let kubelet_arguments = [
        format!("--config={}", config("kubelet.yaml")),
        format!("--kubeconfig={}", config("node.kubeconfig")),
        format!("--hostname-override={}", spec.name),
        format!("--node-ip={}", spec.addresses.join(",")),
        "--v=2".to_owned(),
    ];
    spawn("kubelet", &kubelet_arguments, kubelet)?;
    spawn("kube-proxy", &[format!("--config={}", config("kube-proxy.yaml"))], kube_proxy)
}

fn spawn(program: &str, arguments: &[String], log: File) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).env("PATH", search_path()?);
    command.spawn().map(drop).with_context(|| format!("start {program}"))
}

fn ctr(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ctr").args(arguments).env("PATH", search_path()?).output().context("start ctr")?;
    ensure!(output.status.success(), "ctr {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim_end());
    Ok(())
}

/// Where a node's processes look for programs: what was built for it, then what the machine has.
pub(super) fn search_path() -> Result<String> {
    let modules = ["containerd", "kubernetes", "cni", "runc"].map(|module| format!("{NODE}/programs/{module}"));
    let machine = env::var("PATH").context("PATH is not set")?;
    Ok(format!("{}:{machine}:/usr/sbin:/sbin", modules.join(":")))
}

/// The kernel gives orphans to the first process; nobody else waits for them.
fn reap() -> Result<()> {
    loop {
        match waitpid(Pid::from_raw(-1), None::<WaitPidFlag>) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => {
                let _ = writeln!(std::io::stderr(), "nothing runs here any more");
                return Ok(());
            }
            Err(error) => return Err(error).context("wait for processes"),
        }
    }
}
