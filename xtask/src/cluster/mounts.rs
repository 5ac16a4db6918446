//! What a node sees of the machine's files: all of them, but what it changes in `/etc`, `/opt` and `/var` is its own, `/run`
//! and `/tmp` are empty, and the kernel's file systems are those of its namespaces. Everything ends with the node.

use std::{
    fs::{self, File, OpenOptions},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::{
    libc::O_PATH,
    mount::{MsFlags, mount},
};

use super::{
    cgroup::{self, Hierarchy, Kind},
    node::NodeSpec,
};

/// Where a node finds what was made for it: `config`, and `programs/<module>`.
pub(super) const NODE: &str = "/run/node";

/// Folders of the machine that a node may change without anybody seeing it.
const COPIED: &[&str] = &["etc", "opt", "var"];

/// Folders of the node's own that are on disk: they grow, and an overlay can not hold another.
const ON_DISK: &[(&str, &str)] = &[
    ("containerd", "/var/lib/containerd"),
    ("kubelet", "/var/lib/kubelet"),
    ("pods", "/var/log/pods"),
    ("cni-bin", "/opt/cni/bin"),
    ("config", "/run/node/config"),
];

/// Called by the first process of a node's PID namespace, in a mount namespace of its own.
pub(super) fn prepare(spec: &NodeSpec) -> Result<()> {
    // The paths lie where other things will be mounted: what is open stays reachable.
    let hierarchies = cgroup::hierarchies()?;
    let mut kept = Vec::new();
    for (name, target) in ON_DISK {
        let folder = spec.folder.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        kept.push((hold(&folder)?, PathBuf::from(target)));
    }
    for (module, folder) in &spec.programs {
        kept.push((hold(folder)?, Path::new(NODE).join("programs").join(module)));
    }

    at(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
    fresh("proc", Path::new("/proc"), None)?;
    let scratch = spec.folder.join("scratch");
    fs::create_dir_all(&scratch)?;
    fresh("tmpfs", &scratch, Some("mode=755"))?;
    for name in COPIED {
        overlay(name, &scratch)?;
    }
    for target in ["/run", "/tmp"] {
        fresh("tmpfs", Path::new(target), Some(if target == "/tmp" { "mode=1777" } else { "mode=755" }))?;
    }
    for (folder, target) in kept {
        fs::create_dir_all(&target).with_context(|| format!("make {}", target.display()))?;
        let source = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        at(Some(&source), &target, None, MsFlags::MS_BIND, None)?;
    }
    kernel(&hierarchies)?;
    // Named network namespaces are mounts that containers with the right propagation see come and go.
    fs::create_dir_all("/run/netns")?;
    at(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_SHARED, None)
}

fn hold(folder: &Path) -> Result<File> {
    let opened = OpenOptions::new().read(true).custom_flags(O_PATH).open(folder);
    opened.with_context(|| format!("no folder {}", folder.display()))
}

/// `/sys` as the node's network namespace has it, and below it control groups from the node's own root.
fn kernel(hierarchies: &[Hierarchy]) -> Result<()> {
    fresh("sysfs", Path::new("/sys"), None)?;
    fresh("bpf", Path::new("/sys/fs/bpf"), Some("mode=700"))?;
    if hierarchies.iter().any(|hierarchy| hierarchy.kind != Kind::V2) {
        fresh("tmpfs", Path::new("/sys/fs/cgroup"), Some("mode=755"))?;
    }
    for Hierarchy { mount, kind } in hierarchies {
        fs::create_dir_all(mount).with_context(|| format!("make {}", mount.display()))?;
        match kind {
            Kind::V2 => fresh("cgroup2", mount, None)?,
            Kind::V1(options) => fresh("cgroup", mount, Some(options))?,
        }
    }
    if let [Hierarchy { mount, kind: Kind::V2 }] = hierarchies {
        // A group with controllers for those below it may hold no process itself.
        let system = mount.join(cgroup::SYSTEM);
        fs::create_dir_all(&system).with_context(|| format!("make {}", system.display()))?;
        fs::write(system.join("cgroup.procs"), "0").context("leave the root of the node's control groups")?;
    }
    Ok(())
}

fn overlay(name: &str, scratch: &Path) -> Result<()> {
    let target = Path::new("/").join(name);
    fs::create_dir_all(&target).with_context(|| format!("make {}", target.display()))?;
    let [upper, work] = ["upper", "work"].map(|part| scratch.join(name).join(part));
    for folder in [&upper, &work] {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let options = format!("lowerdir={},upperdir={},workdir={}", target.display(), upper.display(), work.display());
    fresh("overlay", &target, Some(&options))
}

/// Mounts a new file system of a type.
fn fresh(kind: &str, target: &Path, options: Option<&str>) -> Result<()> {
    at(Some(Path::new(kind)), target, Some(kind), MsFlags::empty(), options)
}

fn at(source: Option<&Path>, target: &Path, kind: Option<&str>, flags: MsFlags, options: Option<&str>) -> Result<()> {
    mount(source, target, kind, flags, options)
        .with_context(|| format!("mount {} at {} of the node", kind.unwrap_or("a folder"), target.display()))
}
