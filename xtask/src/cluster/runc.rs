//! runc needs a C library and a C compiler with it: Debian's package is unpacked instead, and not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{apt, report, workspace};

/// The libraries that the program wants and the Debian packages that bring them.
const LIBRARIES: &[(&str, &str)] = &[("libseccomp.so.2", "libseccomp2")];

/// The folder with the program `runc`, of whatever version this machine's Debian has.
pub(super) fn find() -> Result<PathBuf> {
    let cluster = workspace::cache()?.join("cluster");
    let folder = match newest(&cluster) {
        Some(folder) => folder,
        None => fetch(&cluster).context("runc is unpacked from Debian's package, which needs apt-get and dpkg-deb")?,
    };
    libraries(&folder.join("runc"))?;
    Ok(folder)
}

fn newest(cluster: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(cluster).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"runc-"));
    entries.filter(|path| named(path) && path.join("runc").is_file()).max()
}

fn fetch(cluster: &Path) -> Result<PathBuf> {
    let scratch = tempfile::tempdir().context("make a folder to unpack into")?;
    let package = apt::download("runc", scratch.path())?;
    let version = workspace::output(Command::new("dpkg-deb").args(["--field"]).arg(&package).arg("Version"))?;
    let tree = scratch.path().join("tree");
    apt::unpack(&package, &tree)?;
    let kept = scratch.path().join("kept");
    fs::create_dir(&kept)?;
    fs::copy(tree.join("usr/sbin/runc"), kept.join("runc")).context("the package holds no /usr/sbin/runc")?;
    let folder = cluster.join(format!("runc-{version}"));
    workspace::move_folder(&kept, &folder)?;
    report::note(format_args!("runc {version}: Debian's package, unpacked"));
    Ok(folder)
}

/// Installs the libraries that are missing.
fn libraries(program: &Path) -> Result<()> {
    let linked = workspace::output(Command::new("ldd").arg(program)).context("see which libraries runc uses")?;
    let lacks = |library: &str| linked.lines().any(|line| line.contains(library) && line.contains("not found"));
    let packages: Vec<_> = LIBRARIES.iter().filter(|(library, _)| lacks(library)).map(|(_, package)| *package).collect();
    if !packages.is_empty() {
        apt::install(&packages)?;
    }
    let linked = workspace::output(Command::new("ldd").arg(program))?;
    ensure!(!linked.contains("not found"), "{} can not run here:\n{linked}", program.display());
    Ok(())
}
