//! Network namespaces: made, entered, removed by name.

use std::{
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use crate::layout::NETNS;

/// The file of the namespace `name`, as `ip netns` has it.
pub fn path(name: &str) -> PathBuf {
    Path::new(NETNS).join(name)
}

/// Makes a namespace and mounts it at [`path`]; the calling thread stays where it is.
pub fn create(name: &str) -> Result<()> {
    let target = path(name);
    let make = || -> Result<()> {
        fs::create_dir_all(NETNS)?;
        OpenOptions::new().write(true).create_new(true).mode(0o444).open(&target)?;
        thread::scope(|scope| {
            let maker = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                mount(Some("/proc/thread-self/ns/net"), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            });
            maker.join().expect("no step panics")
        })?;
        Ok(())
    };
    make().with_context(|| format!("cannot make the network namespace {name}: are you root?"))
}

/// Unmounts and forgets a namespace. It ends when its last process does; one that is already gone is no error.
pub fn remove(name: &str) -> Result<()> {
    let target = path(name);
    // Not mounted (the owner died between its two steps) is as good as unmounted.
    let _ = umount2(&target, MntFlags::MNT_DETACH);
    match fs::remove_file(&target) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the network namespace {name}"))
        }
        _ => Ok(()),
    }
}

/// The names of all namespaces that begin with `prefix`.
pub fn list(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(NETNS) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// Runs `work` on a thread inside the network namespace at `path`: sockets that it opens belong there.
pub fn in_netns<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(path).with_context(|| format!("no network namespace {}", path.display()))?;
    thread::scope(|scope| {
        let worker = scope.spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {}", path.display()))?;
            Ok(work())
        });
        worker.join().unwrap_or_else(|_| Err(anyhow!("the work inside {} panicked", path.display())))
    })
}

/// Sets sysctls of the namespace `name`; keys have slashes and begin below `/proc/sys/net`.
pub fn sysctl(name: &str, settings: &[(&str, &str)]) -> Result<()> {
    in_netns(&path(name), || {
        for (key, value) in settings {
            let file = Path::new("/proc/sys/net").join(key);
            fs::write(&file, value).with_context(|| format!("cannot set {} to {value} in {name}", file.display()))?;
        }
        Ok(())
    })?
}
