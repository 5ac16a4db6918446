//! Takes a cluster apart, knowing nothing but its name.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, Error, Result, bail};
use harness::netns;
use nix::mount::{MntFlags, umount2};

use super::{cgroup, layout::Layout, state::Cluster};

/// Kills every process of the cluster and removes everything that it made. Safe to repeat; what fails does not stop the rest.
pub(super) fn remove(layout: &Layout) -> Result<()> {
    let mut failures: Vec<Error> = Vec::new();
    let mut attempt = |result: Result<()>| failures.extend(result.err());

    // Nodes first, as a whole: nothing in them starts anything again.
    if let Ok(Some(cluster)) = Cluster::load(layout) {
        for init in cluster.nodes.iter().filter_map(|node| node.init) {
            attempt(init.kill());
        }
        for started in cluster.control.processes.values() {
            attempt(started.process.kill());
        }
    }
    attempt(cgroup::destroy(&layout.prefix()));
    for name in netns::list(&format!("{}-", layout.prefix())) {
        attempt(netns::remove(&name));
    }
    for folder in [layout.data(), layout.running()] {
        attempt(unmount_below(&folder));
        attempt(remove_folder(&folder));
    }
    for shared in Layout::shared() {
        // Gone with the last that uses it.
        let _ = fs::remove_dir(shared);
    }

    match failures.len() {
        0 => Ok(()),
        count => {
            Err(failures.swap_remove(0)).with_context(|| format!("cluster {} is not all gone ({count} failures)", layout.name))
        }
    }
}

/// What of the cluster is still on this machine. Empty after a clean end.
pub(super) fn leftovers(layout: &Layout) -> Result<Vec<String>> {
    let mut left: Vec<String> = netns::list(&format!("{}-", layout.prefix()));
    left.extend(cgroup::processes(&layout.prefix())?.iter().map(|pid| format!("process {pid}")));
    let folders = cgroup::folders(&layout.prefix())?.into_iter().chain([layout.data(), layout.running()]);
    left.extend(folders.filter(|path| path.exists()).map(|path| path.display().to_string()));
    let mounts = mounts()?.into_iter().filter(|point| belongs(point, layout));
    left.extend(mounts.map(|path| format!("mount {}", path.display())));
    left.extend(mentions(layout));
    Ok(left)
}

fn belongs(point: &Path, layout: &Layout) -> bool {
    let namespace = |name: &str| name.starts_with(&format!("{}-", layout.prefix()));
    point.starts_with(layout.data())
        || point.starts_with(layout.running())
        || point.file_name().and_then(|name| name.to_str()).is_some_and(namespace)
}

/// Processes that escaped from the control groups: their command line or environment names the cluster's folder.
fn mentions(layout: &Layout) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let folder = layout.data().display().to_string() + "/";
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let others = pids.filter(|pid| *pid != std::process::id());
    let names_it = |pid: &u32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).split('\0').any(|word| word.contains(&folder))
    };
    others.filter(names_it).map(|pid| format!("process {pid}")).collect()
}

/// A folder on a file system that is still being let go can be busy for a moment; a missing one is no error.
fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => bail!("cannot remove {}: {error}", folder.display()),
        _ => Ok(()),
    }
}

/// The deepest first. Nodes mount in namespaces of their own: there should be nothing.
fn unmount_below(folder: &Path) -> Result<()> {
    for point in mounts()?.iter().rev().filter(|point| point.starts_with(folder)) {
        umount2(point, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {}", point.display()))?;
    }
    Ok(())
}

fn mounts() -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    Ok(table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect())
}
