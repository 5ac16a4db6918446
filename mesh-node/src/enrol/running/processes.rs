//! The network namespace of a pod that runs, found by its processes.
//!
//! A container's control group has its pod's uid in its path: `…/pod<uid>/<container>` where the kubelet makes the groups itself,
//! `…-pod<uid with underscores>.slice/…` where systemd does. On hosts with cgroup v1 a process has a path in each hierarchy. The
//! path is relative to the reader's own group, so that only the part from the pod's on is always there.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A namespace, as `stat` tells one from another.
type Inode = (u64, u64);

/// Where processes and named namespaces are.
#[derive(Clone, Debug)]
pub struct Processes {
    proc: PathBuf,
    /// Where container runtimes mount pods' namespaces: such a path lives as long as the pod, a process's may not.
    named: PathBuf,
}

/// Why a pod's namespace is not known.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("the processes of this node can not be listed")]
    List(#[source] io::Error),
    #[error(
        "no process of the pod runs on this node: has it ended, or is the node proxy not in the host's PID namespace (hostPID)?"
    )]
    None,
    #[error("its processes are in the node's own network namespace")]
    HostNetwork,
}

impl Processes {
    pub fn new(proc: impl Into<PathBuf>, named: impl Into<PathBuf>) -> Self {
        Self { proc: proc.into(), named: named.into() }
    }

    /// Paths of the network namespaces that the processes of these pods are in, by the pods' uids: first that of the oldest
    /// process, which holds it for the others. One pass over all processes, however many pods are asked for.
    pub fn namespaces(&self, pods: &[&str]) -> Result<HashMap<String, Result<Vec<PathBuf>, ProcessError>>, ProcessError> {
        let own = inode(&self.proc.join("self/ns/net")).map_err(ProcessError::List)?;
        let mut found: HashMap<&str, BTreeMap<u32, Inode>> = HashMap::new();
        for entry in fs::read_dir(&self.proc).map_err(ProcessError::List)? {
            let Some(pid) = entry.ok().and_then(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) else { continue };
            let folder = self.proc.join(pid.to_string());
            // It may end at any moment.
            let Ok(groups) = fs::read_to_string(folder.join("cgroup")) else { continue };
            let Some(pod) = pod_of(&groups, pods) else { continue };
            let Ok(inode) = inode(&folder.join("ns/net")) else { continue };
            found.entry(pod).or_default().insert(pid, inode);
        }
        let named = self.named();
        let answer = |pod: &&str| {
            let namespaces = found.get(pod).ok_or(ProcessError::None).and_then(|processes| {
                let paths = self.paths(processes, own, &named);
                if paths.is_empty() { Err(ProcessError::HostNetwork) } else { Ok(paths) }
            });
            ((*pod).to_owned(), namespaces)
        };
        Ok(pods.iter().map(answer).collect())
    }

    /// One path a namespace, by age of the processes in it.
    fn paths(&self, processes: &BTreeMap<u32, Inode>, own: Inode, named: &HashMap<Inode, PathBuf>) -> Vec<PathBuf> {
        let mut seen = vec![own];
        let mut paths = Vec::new();
        for (pid, inode) in processes {
            if !seen.contains(inode) {
                seen.push(*inode);
                let of_process = || self.proc.join(pid.to_string()).join("ns/net");
                paths.push(named.get(inode).cloned().unwrap_or_else(of_process));
            }
        }
        paths
    }

    fn named(&self) -> HashMap<Inode, PathBuf> {
        let entries = fs::read_dir(&self.named).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((inode(&entry.path()).ok()?, entry.path()))).collect()
    }
}

/// Which of the pods a process belongs to, by the content of its file `cgroup` (cgroups(7)). The outermost group counts:
/// what a pod makes inside of its own is its own affair.
fn pod_of<'a>(groups: &str, pods: &[&'a str]) -> Option<&'a str> {
    let paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.flat_map(|path| path.split('/')).find_map(|segment| {
        let segment = segment.strip_suffix(".slice").unwrap_or(segment);
        let uid = segment.strip_prefix("pod").or_else(|| segment.rsplit_once("-pod").map(|(_, uid)| uid))?;
        let uid = uid.replace('_', "-");
        pods.iter().find(|pod| **pod == uid).copied()
    })
}

fn inode(path: &Path) -> io::Result<Inode> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b1c2d3e-4f50-4a61-9b72-8c93ad0e1f20";

    #[test]
    fn a_process_is_of_the_pod_in_its_groups() {
        let check = |groups: &str, expected| assert_eq!(pod_of(groups, &["other", UID]), expected, "{groups}");
        // cgroup v2, kubelet's own groups; Burstable, Guaranteed.
        check(&format!("0::/kubepods/burstable/pod{UID}/4f1e\n"), Some(UID));
        check(&format!("0::/kubepods/pod{UID}/4f1e\n"), Some(UID));
        // systemd's.
        let slice = UID.replace('-', "_");
        check(
            &format!("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-4f.scope\n"),
            Some(UID),
        );
        check(&format!("0::/kubepods.slice/kubepods-pod{slice}.slice/cri-containerd-4f1e.scope\n"), Some(UID));
        // As seen from another container's group.
        check(&format!("0::/../../pod{UID}/4f1e\n"), Some(UID));
        check(&format!("0::/../kubepods-besteffort-pod{slice}.slice/cri-4f.scope\n"), Some(UID));
        // cgroup v1.
        let v1 = format!(
            "12:cpu,cpuacct:/kubepods/besteffort/pod{UID}/4f1e\n1:name=systemd:/kubepods/besteffort/pod{UID}/4f1e\n0::/\n"
        );
        check(&v1, Some(UID));
        // A pod's own groups name nobody else.
        check(&format!("0::/kubepods/podffff/pod{UID}\n"), Some(UID));
        assert_eq!(pod_of(&format!("0::/kubepods/podouter/x/pod{UID}\n"), &[UID, "outer"]), Some("outer"));
        for none in ["", "0::/\n", "0::/system.slice/kubelet.service\n", "0::/kubepods/burstable\n", "nonsense"] {
            check(none, None);
        }
    }

    /// A tree like `/proc`, whose namespaces are files.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().expect("folder"));
            tree.file("namespaces/host", "");
            tree.file("namespaces/pod", "");
            tree.file("namespaces/nested", "");
            fs::create_dir_all(tree.path("named")).expect("folder");
            tree.process("self", "0::/", "host");
            tree
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn file(&self, name: &str, text: &str) {
            let path = self.path(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
            fs::write(path, text).expect("file");
        }

        fn process(&self, pid: &str, groups: &str, namespace: &str) {
            self.file(&format!("proc/{pid}/cgroup"), groups);
            fs::create_dir_all(self.path(&format!("proc/{pid}/ns"))).expect("folder");
            let to = self.path(&format!("namespaces/{namespace}"));
            std::os::unix::fs::symlink(to, self.path(&format!("proc/{pid}/ns/net"))).expect("link");
        }

        fn find(&self, pod: &str) -> Result<Vec<PathBuf>, String> {
            let processes = Processes::new(self.path("proc"), self.path("named"));
            let mut found = processes.namespaces(&[pod]).map_err(|error| error.to_string())?;
            found.remove(pod).expect("an answer").map_err(|error| error.to_string())
        }
    }

    #[test]
    fn the_oldest_process_shows_the_namespace() {
        let tree = Tree::new();
        let groups = format!("0::/kubepods/pod{UID}/4f1e\n");
        tree.process("90", &groups, "nested");
        tree.process("70", &groups, "pod");
        tree.process("80", &groups, "pod");
        tree.process("60", "0::/system.slice/x.service\n", "host");
        assert_eq!(tree.find(UID), Ok(vec![tree.path("proc/70/ns/net"), tree.path("proc/90/ns/net")]));
        // Where it has a name, that is the path.
        fs::hard_link(tree.path("namespaces/pod"), tree.path("named/cni-1")).expect("link");
        assert_eq!(tree.find(UID).expect("found")[0], tree.path("named/cni-1"));
    }

    #[test]
    fn pods_of_the_host_network_and_absent_ones_say_so() {
        let tree = Tree::new();
        tree.process("70", &format!("0::/kubepods/pod{UID}/4f1e\n"), "host");
        assert!(tree.find(UID).expect_err("host network").contains("node's own network namespace"));
        assert!(tree.find("absent").expect_err("no process").contains("no process of the pod"));
    }
}
