//! A cluster's control groups: `kc-<name>/control` and `kc-<name>/<node>`, in every hierarchy that is mounted.
//!
//! On hosts with cgroup v2 alone that is one; on hybrid hosts each v1 controller has its own, which the kubelet uses, and v2
//! holds no controller. A node gets a cgroup namespace whose root is its group: what attaches a program to "the root" of the
//! hierarchy there meets this node's processes only.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long processes that are killed may take to go.
const DEADLINE: Duration = Duration::from_secs(30);

/// On hosts with v2 alone: the group of a node's processes that are no pods'.
pub(super) const SYSTEM: &str = "system";

/// A mounted tree of control groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) mount: PathBuf,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// With the options that mount it once more: `cpu`, `none,name=systemd`.
    V1(String),
    V2,
}

/// Every hierarchy that is mounted, v2 first.
pub(super) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    let controllers = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let controllers: Vec<&str> = controllers.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let found = parse(&table, &controllers);
    ensure!(
        found.first().is_some_and(|first| first.kind == Kind::V2),
        "no cgroup2 file system is mounted: mount -t cgroup2 none /sys/fs/cgroup"
    );
    Ok(found)
}

/// mountinfo (proc_pid_mountinfo(5)): root and mount point are the fourth and fifth field; type, source and options of the
/// file system follow a lone dash. Mounts of a part of a hierarchy (in containers) do not count.
fn parse(table: &str, controllers: &[&str]) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in table.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let Some(mount) = before.split(' ').nth(4).map(PathBuf::from) else { continue };
        let mut fields = after.split(' ');
        let kind = match (fields.next(), fields.nth(1)) {
            (Some("cgroup2"), _) => Kind::V2,
            (Some("cgroup"), Some(options)) => Kind::V1(v1_options(options, controllers)),
            _ => continue,
        };
        if found.iter().all(|known| known.kind != kind) {
            found.push(Hierarchy { mount, kind });
        }
    }
    found.sort_by_key(|hierarchy| hierarchy.kind != Kind::V2);
    found
}

fn v1_options(options: &str, controllers: &[&str]) -> String {
    if let Some(name) = options.split(',').find(|option| option.starts_with("name=")) {
        return format!("none,{name}");
    }
    options.split(',').filter(|option| controllers.contains(option)).collect::<Vec<_>>().join(",")
}

/// Makes a group and those above it, in every hierarchy.
pub(super) fn create(group: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let mut path = hierarchy.mount.clone();
        for part in group.split('/') {
            let parent = path.clone();
            path.push(part);
            fs::create_dir_all(&path).with_context(|| format!("make the control group {}", path.display()))?;
            match &hierarchy.kind {
                Kind::V1(options) if options == "cpuset" => copy_cpuset(&parent, &path)?,
                Kind::V1(_) => {}
                Kind::V2 => delegate(&parent),
            }
        }
    }
    Ok(())
}

/// A new group of v1's cpuset has no processor and no memory, and takes no process.
fn copy_cpuset(from: &Path, to: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let value = fs::read(from.join(file)).with_context(|| format!("read {}", from.join(file).display()))?;
        fs::write(to.join(file), value).with_context(|| format!("write {}", to.join(file).display()))?;
    }
    Ok(())
}

/// Lets the groups below have v2's controllers. What is bound to v1 stays there.
fn delegate(group: &Path) {
    let Ok(controllers) = fs::read_to_string(group.join("cgroup.controllers")) else { return };
    for controller in controllers.split_whitespace() {
        let _ = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Moves a process into the group, in every hierarchy.
pub(super) fn join(group: &str, pid: u32) -> Result<()> {
    for hierarchy in hierarchies()? {
        let path = hierarchy.mount.join(group);
        fs::write(path.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("move process {pid} into the control group {}", path.display()))?;
    }
    Ok(())
}

/// The same for a node's group while the node runs: where v2 has the controllers, processes are one group below it.
pub(super) fn join_as_process(group: &str, pid: u32) -> Result<()> {
    let system = format!("{group}/{SYSTEM}");
    let has_system = folders(&system)?.len() == hierarchies()?.len();
    join(if has_system { &system } else { group }, pid)
}

/// Every process in the group or below, in any hierarchy.
pub(super) fn processes(group: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for hierarchy in hierarchies()? {
        for path in tree(&hierarchy.mount.join(group)) {
            let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The folders of a group that exist, in any hierarchy.
pub(super) fn folders(group: &str) -> Result<Vec<PathBuf>> {
    let all = hierarchies()?.into_iter().map(|hierarchy| hierarchy.mount.join(group));
    Ok(all.filter(|path| path.exists()).collect())
}

/// Kills every process in the group and below, and removes the groups. One that does not exist is no error.
pub(super) fn destroy(group: &str) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    for hierarchy in hierarchies()?.into_iter().filter(|hierarchy| hierarchy.kind == Kind::V2) {
        // All at once, so that nobody starts another meanwhile.
        let _ = fs::write(hierarchy.mount.join(group).join("cgroup.kill"), "1");
    }
    loop {
        let alive = processes(group)?;
        for pid in &alive {
            let _ = kill(Pid::from_raw((*pid).try_into()?), Signal::SIGKILL);
        }
        let removed = if alive.is_empty() { remove(group) } else { Ok(()) };
        if alive.is_empty() && removed.is_ok() {
            return Ok(());
        }
        if Instant::now() > end {
            removed?;
            ensure!(alive.is_empty(), "processes of {group} do not die: {alive:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn remove(group: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        for path in tree(&hierarchy.mount.join(group)).iter().rev() {
            match fs::remove_dir(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove the control group {}", path.display()));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// A group and all below it, parents first; nothing when there is none.
fn tree(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut all = vec![path.to_owned()];
    for entry in entries.filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.extend(tree(&entry.path()));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_on_hybrid_and_unified_hosts() {
        let hybrid = "31 30 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            32 31 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            33 31 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            34 31 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let v1 = |mount: &str, options: &str| Hierarchy { mount: mount.into(), kind: Kind::V1(options.into()) };
        assert_eq!(
            parse(hybrid, &["cpu", "memory"]),
            [
                Hierarchy { mount: "/sys/fs/cgroup/unified".into(), kind: Kind::V2 },
                v1("/sys/fs/cgroup/cpu", "cpu"),
                v1("/sys/fs/cgroup/systemd", "none,name=systemd"),
            ]
        );
        let unified = "30 23 0:25 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(parse(unified, &[]), [Hierarchy { mount: "/sys/fs/cgroup".into(), kind: Kind::V2 }]);
    }
}
