//! The kubelet's probes reach pods whatever policy says, and nobody else's connections do.
//!
//! The kubelet is found among the node's processes: by its name, in the node's own network namespace, outside of every pod. It is
//! known by its process id, which needs neither cgroup v2 nor a group of its own. When it ends, its id is struck from the list before
//! the next one is looked for.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tracing::{info, warn};

use super::agent::Agent;
use crate::{ebpf::Probers, state::client::chain};

const NAME: &str = "kubelet";
/// How soon an end of the kubelet is noticed, and a new one found.
const PATROL: Duration = Duration::from_secs(1);

/// A process, told from a later one with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// Since boot, in the kernel's ticks.
    started: u64,
}

/// Keeps the kubelet's probes going, for ever. `cgroups` stay as they are.
pub async fn follow(agent: Arc<Agent>, proc: PathBuf, netns_cookie: u64, cgroups: Vec<u64>) {
    let mut known: Option<Vec<Process>> = None;
    loop {
        let alive =
            known.as_ref().is_some_and(|known| !known.is_empty() && known.iter().all(|process| is_alive(&proc, *process)));
        if !alive {
            let found = find(&proc).unwrap_or_else(|error| {
                warn!(%error, "the kubelet can not be looked for");
                Vec::new()
            });
            if known.as_ref() != Some(&found) {
                let processes: Vec<u32> = found.iter().map(|process| process.pid).collect();
                let pids = format!("{processes:?}");
                match agent.kernel.let_probes_through(netns_cookie, &Probers { cgroups: cgroups.clone(), processes }) {
                    Ok(()) if found.is_empty() => warn!("no kubelet runs here: its probes would be judged like anybody's"),
                    Ok(()) => info!(pids, "the kubelet's probes pass"),
                    Err(error) => {
                        warn!(error = %chain(&error), "the kubelet's probes can not be let through");
                        tokio::time::sleep(PATROL).await;
                        continue;
                    }
                }
                known = Some(found);
            }
        }
        tokio::time::sleep(PATROL).await;
    }
}

/// Every process that is a kubelet of this node.
pub fn find(proc: &Path) -> io::Result<Vec<Process>> {
    let own = inode(&proc.join("self/ns/net"))?;
    let entries = fs::read_dir(proc)?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let kubelet = |pid: u32| {
        let folder = proc.join(pid.to_string());
        let named = fs::read_to_string(folder.join("comm")).is_ok_and(|name| name.trim_end() == NAME);
        // A pod of the host network may call its program as it likes.
        let outside = || fs::read_to_string(folder.join("cgroup")).is_ok_and(|groups| !is_of_pod(&groups));
        let here = || inode(&folder.join("ns/net")).is_ok_and(|found| found == own);
        (named && outside() && here()).then_some(())?;
        Some(Process { pid, started: started(proc, pid)? })
    };
    let mut found: Vec<Process> = pids.filter_map(kubelet).collect();
    found.sort_unstable_by_key(|process| process.pid);
    Ok(found)
}

fn is_alive(proc: &Path, process: Process) -> bool {
    started(proc, process.pid) == Some(process.started)
}

/// Field 22 of proc_pid_stat(5). The second one, the name, may hold spaces and parentheses.
fn started(proc: &Path, pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

/// Whether a process is in a container of a pod, by its file `cgroup`.
fn is_of_pod(groups: &str) -> bool {
    let paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.flat_map(|path| path.split('/')).any(|segment| {
        // `kubepods` of the kubelet's own groups, `kubepods.slice` of systemd's; relative to another group the part before
        // the pod may be missing.
        segment.starts_with("kubepods") || segment.strip_prefix("pod").is_some_and(|uid| uid.len() >= 32)
    })
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn process(&self, pid: &str, name: &str, groups: &str, namespace: &str, started: u64) {
            let folder = self.0.path().join("proc").join(pid);
            fs::create_dir_all(folder.join("ns")).expect("folder");
            let target = self.0.path().join(namespace);
            fs::write(&target, "").expect("file");
            std::os::unix::fs::symlink(target, folder.join("ns/net")).expect("link");
            fs::write(folder.join("comm"), format!("{name}\n")).expect("file");
            fs::write(folder.join("cgroup"), groups).expect("file");
            let zeros = "0 ".repeat(18);
            fs::write(folder.join("stat"), format!("{pid} (a ) b) S {zeros}{started} 0 0\n")).expect("file");
        }
    }

    #[test]
    fn a_kubelet_is_a_process_of_the_node_itself() {
        let tree = Tree(tempfile::tempdir().expect("folder"));
        let proc = tree.0.path().join("proc");
        let pod = "0::/kubepods.slice/kubepods-pod1.slice/x.scope\n";
        tree.process("self", "mesh-node", pod, "host", 1);
        tree.process("1", "systemd", "0::/init.scope\n", "host", 1);
        assert_eq!(find(&proc).expect("a list"), []);
        tree.process("40", "kubelet", "0::/system.slice/kubelet.service\n", "host", 77);
        // Of another node on the machine, a pod's, and a pod's on a host with cgroup v1.
        tree.process("41", "kubelet", "0::/\n", "other", 1);
        tree.process("42", "kubelet", pod, "host", 1);
        tree.process("43", "kubelet", "3:cpu:/kubepods/besteffort/pod1/x\n0::/\n", "host", 1);
        tree.process("44", "kubelet", "0::/../pod0b1c2d3e-4f50-4a61-9b72-8c93ad0e1f20/x\n", "host", 1);
        tree.process("45", "kubelet-proxy", "0::/\n", "host", 1);
        let kubelet = Process { pid: 40, started: 77 };
        assert_eq!(find(&proc).expect("a list"), [kubelet]);
        assert!(is_alive(&proc, kubelet));
        assert!(!is_alive(&proc, Process { started: 78, ..kubelet }), "its number was given to another");
        assert!(!is_alive(&proc, Process { pid: 99, ..kubelet }));
    }
}
