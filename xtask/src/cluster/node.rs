//! A node, from outside: its folder, the start of its first process, and commands that run inside.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use super::{
    address::{self, Dual, Families},
    certificates, cgroup, interrupt,
    layout::Layout,
    mounts::NODE,
    needs,
    process::{Process, start, tail},
    programs::Programs,
    state::Node,
    template::{Templates, list},
};
use crate::{
    image::{Image, pause},
    workspace,
};

/// What a node's first process has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct NodeSpec {
    pub(super) name: String,
    /// The first is the one that others ask it at.
    pub(super) addresses: Vec<String>,
    /// Its control group, relative to each hierarchy.
    pub(super) cgroup: String,
    /// Its own on disk.
    pub(super) folder: PathBuf,
    /// Modules by name, and where their programs are.
    pub(super) programs: Vec<(String, PathBuf)>,
    pub(super) logs: PathBuf,
    pub(super) name_servers: Vec<String>,
    /// All nodes' names, for `/etc/hosts`.
    pub(super) hosts: Vec<(String, String)>,
}

/// The file in a node's folder with the process id of its first process, as the machine knows it.
const PID: &str = "init.pid";

/// How long the first process may take to exist.
const PATIENCE: Duration = Duration::from_mins(1);

/// The nodes of a cluster, before they run.
pub(super) fn plan(layout: &Layout, count: u8) -> Vec<Node> {
    let node = |number: u8| {
        let name = format!("node-{number}");
        Node {
            address: address::node(number),
            pods: address::pods_of(number),
            netns: harness::netns::path(&layout.node_netns(&name)),
            cgroup: format!("{}/{name}", layout.prefix()),
            folder: layout.node(&name),
            init: None,
            name,
        }
    };
    (1..=count).map(node).collect()
}

/// Writes a node's folder.
pub(super) fn furnish(
    layout: &Layout,
    families: Families,
    node: &Node,
    programs: &Programs,
    templates: &Templates,
) -> Result<()> {
    let config = node.folder.join("config");
    fs::create_dir_all(&config).with_context(|| format!("make {}", config.display()))?;
    certificates::hand_over(layout, node, &config)?;
    let seen = Path::new(NODE).join("config");
    for user in ["node", "kube-proxy"] {
        certificates::write_kubeconfig(
            templates,
            &config.join(format!("{user}.kubeconfig")),
            &certificates::inside(),
            user,
            &seen,
        )?;
    }
    let image: Image = pause::image(&programs.path("pause")?)?;
    image.write(&config.join("pause.tar"))?;

    let dns = list(&families.each(&address::dns_service()));
    let restricted = (!needs::may_protect_from_oom()?).to_string();
    let ranges: Vec<_> = families.each(&node.pods).iter().map(|pods| serde_json::json!([{ "subnet": pods }])).collect();
    let everything = Dual { v4: "0.0.0.0/0".to_owned(), v6: "::/0".to_owned() };
    let routes: Vec<_> = families.each(&everything).iter().map(|to| serde_json::json!({ "dst": to })).collect();
    let files = [
        ("containerd.toml", vec![("pause", pause::NAME), ("restrict_oom", &restricted)]),
        ("kubelet.yaml", vec![("dns", &*dns)]),
        ("kube-proxy.yaml", vec![("pods", &*families.list(&address::pods())), ("node", &node.name)]),
        ("bridge.conflist", vec![("ranges", &*serde_json::to_string(&ranges)?), ("routes", &*serde_json::to_string(&routes)?)]),
    ]
    .map(|(name, values)| (name, templates.fill(name, &values)));
    for (name, text) in files {
        workspace::write_atomically(&config.join(name), text?.as_bytes())?;
    }

    // The node's own copies: what is installed beside them is the node's affair.
    let plugins = node.folder.join("cni-bin");
    fs::create_dir_all(&plugins)?;
    let (_, folder) = programs.folders().iter().find(|(module, _)| module == "cni").context("CNI plugins were built")?;
    for entry in fs::read_dir(folder)? {
        let file = entry?.path();
        if let Some(name) = file.file_name().filter(|_| file.is_file()) {
            fs::copy(&file, plugins.join(name)).with_context(|| format!("copy {}", file.display()))?;
        }
    }
    Ok(())
}

/// Starts a node and returns its first process.
pub(super) fn begin(spec: &NodeSpec, node: &Node) -> Result<Process> {
    let (log, pid_file) = (log_of(&spec.logs, &spec.name), node.folder.join(PID));
    let mut command = Command::new(env::current_exe().context("this program has a file")?);
    command.args(["cluster", "node", &serde_json::to_string(spec)?]);
    let starter = start(&mut command, &node.netns, &spec.cgroup, &log)?;
    let hope = || {
        ensure!(starter.alive() || pid_file.exists(), "{} did not start:\n{}", spec.name, tail(&log, 20));
        Ok(())
    };
    interrupt::wait_until(&format!("the first process of {}", spec.name), PATIENCE, hope, || Ok(pid_file.exists()))?;
    let pid = fs::read_to_string(&pid_file)?.trim().parse().context("a process id is a number")?;
    Process::of(pid).with_context(|| tail(&log, 20))
}

/// The log of what a node's first process does.
pub(super) fn log_of(logs: &Path, node: &str) -> PathBuf {
    logs.join(format!("{node}.log"))
}

/// The hidden command between [`begin`] and [`super::init`]: makes the namespaces and starts the first process in them.
pub(super) fn enter(spec: &str) -> Result<()> {
    let parsed: NodeSpec = serde_json::from_str(spec).context("read the node's description")?;
    // Before the cgroup namespace, whose root is where this process is when it is made.
    cgroup::join(&parsed.cgroup, process::id())?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .context("make the node's namespaces")?;
    let mut init = Command::new(env::current_exe().context("this program has a file")?);
    let init = init.args(["cluster", "init", spec]).spawn().context("start the node's first process")?;
    workspace::write_atomically(&parsed.folder.join(PID), init.id().to_string().as_bytes())
}

/// A command that runs on a node as a process of its own would.
pub(crate) fn on_node(node: &Node, program: &str) -> Result<Command> {
    let init = node.init.filter(|init| init.alive()).with_context(|| format!("{} is not running", node.name))?;
    let mut command = Command::new("nsenter");
    command.args(["--target", &init.pid.to_string(), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--wd=/", "--"]);
    command.arg("env").arg(format!("PATH={}", super::init::search_path()?)).arg(program);
    Ok(command)
}

/// Gives an image, as a tar file, to a node.
pub(crate) fn import(node: &Node, image: &Path) -> Result<()> {
    let file = fs::File::open(image).with_context(|| format!("open {}", image.display()))?;
    let mut ctr = on_node(node, "ctr")?;
    ctr.args(["--namespace", "k8s.io", "images", "import", "-"]).stdin(Stdio::from(file));
    interrupt::output(&mut ctr).map(drop).with_context(|| format!("import {} on {}", image.display(), node.name))
}
