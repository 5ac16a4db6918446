//! Takes a lab apart, knowing nothing but its id.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, Error, Result, bail};
use nix::mount::{MntFlags, umount2};

use crate::{
    cgroup, folder,
    layout::{LABS, Layout},
    netns, status,
};

/// Kills every process of the lab and removes everything that it made. Safe to repeat; what fails does not stop the rest.
pub(crate) fn reap(layout: &Layout) -> Result<()> {
    let mut failures: Vec<Error> = Vec::new();
    let mut attempt = |result: Result<()>| failures.extend(result.err());

    attempt(cgroup::of_lab(layout).and_then(|path| cgroup::destroy(&path)));
    for name in netns::list(&format!("{}-", layout.prefix())) {
        attempt(netns::remove(&name));
    }
    if let Some(status) = status::read(layout) {
        attempt(folder::forget(&status.folder, &layout.id));
    }
    attempt(unmount_below(&layout.state()));
    attempt(remove_state(&layout.state()));

    match failures.len() {
        0 => Ok(()),
        count => Err(failures.swap_remove(0)).with_context(|| format!("lab {} is not all gone ({count} failures)", layout.id)),
    }
}

/// What of the lab `id` is still on this machine: namespaces, cgroups, mounts, folders. Empty after a clean end.
pub fn leftovers(id: &str) -> Result<Vec<String>> {
    let layout = Layout::new(id.parse()?);
    let mut left: Vec<String> = netns::list(&format!("{}-", layout.prefix()));
    let places = [cgroup::of_lab(&layout)?, layout.state()];
    left.extend(places.iter().filter(|path| path.exists()).map(|path| path.display().to_string()));
    left.extend(mounts_below(&layout.state())?.iter().map(|path| format!("mount {}", path.display())));
    Ok(left)
}

fn remove_state(state: &Path) -> Result<()> {
    match fs::remove_dir_all(state) {
        Err(error) if error.kind() != ErrorKind::NotFound => bail!("cannot remove {}: {error}", state.display()),
        _ => {}
    }
    // Shared with other labs and with nodes of this machine: they go with the last of them.
    for shared in [Path::new(LABS), Path::new("/run/keelson")] {
        let _ = fs::remove_dir(shared);
    }
    Ok(())
}

/// The deepest first.
fn unmount_below(folder: &Path) -> Result<()> {
    for path in mounts_below(folder)?.iter().rev() {
        umount2(path, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {}", path.display()))?;
    }
    Ok(())
}

fn mounts_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    Ok(points.filter(|point| point.starts_with(folder)).collect())
}
