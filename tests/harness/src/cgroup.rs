//! The lab's control groups, all below `kl-<id>` in the cgroup2 hierarchy.
//!
//! They are what makes the cleaning certain: every process of a lab is in one, and a group can be killed as a whole.
//!
//! ```text
//! kl-<id>/controller
//! kl-<id>/<node>                        what the node's proxy takes for the root: its programs see this node only
//! kl-<id>/<node>/system/{mesh-node,kubelet}
//! kl-<id>/<node>/kubepods/<namespace>.<pod>
//! ```

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{layout::Layout, wait::wait_until};

/// Where cgroup2 is mounted, on unified and on hybrid hosts.
pub(crate) fn mount_point() -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    find_cgroup2(&table).context("no cgroup2 file system is mounted: `mount -t cgroup2 none /sys/fs/cgroup`")
}

/// mountinfo (proc_pid_mountinfo(5)): the fifth field is the mount point, the type follows a lone dash.
fn find_cgroup2(table: &str) -> Option<PathBuf> {
    table.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup2 ").then(|| before.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// The group that holds all others of the lab.
pub(crate) fn of_lab(layout: &Layout) -> Result<PathBuf> {
    Ok(mount_point()?.join(layout.prefix()))
}

pub(crate) fn create(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make the cgroup {}", path.display()))
}

/// Moves the current process into the group.
pub(crate) fn join(path: &Path) -> Result<()> {
    fs::write(path.join("cgroup.procs"), "0").with_context(|| format!("cannot join the cgroup {}", path.display()))
}

/// Whether any process is in the group or below it.
pub(crate) fn populated(path: &Path) -> bool {
    fs::read_to_string(path.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
}

/// Kills every process in the group and below, and removes the groups. One that does not exist is no error.
pub(crate) fn destroy(path: &Path) -> Result<()> {
    wait_until(&format!("the end of the processes in {}", path.display()), Duration::from_secs(20), || {
        match fs::write(path.join("cgroup.kill"), "1") {
            Err(error) if error.kind() == ErrorKind::NotFound && !path.exists() => return Ok(true),
            Err(error) => return Err(error).context("cannot kill a cgroup: that needs Linux 5.14"),
            Ok(()) => {}
        }
        if populated(path) {
            bail!("some processes do not die");
        }
        remove_tree(path)?;
        Ok(true)
    })
}

fn remove_tree(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path).with_context(|| format!("cannot remove the cgroup {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_on_hybrid_hosts() {
        let table = "30 24 0:26 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs ro,mode=755\n\
                     31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate\n\
                     32 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert_eq!(find_cgroup2(table), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(find_cgroup2("32 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"), None);
    }
}
