//! Debian's kernels: downloaded, unpacked and kept in the cache, never installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{apt, report, workspace};

/// A line of kernels with long support, and the Debian release that ships it.
pub(super) struct Series {
    /// As in `uname -r`.
    pub(super) version: &'static str,
    suite: &'static str,
}

/// The floor, and the newest in a Debian release.
pub(super) const SERIES: &[Series] = &[Series { version: "6.1", suite: "bookworm" }, Series { version: "6.12", suite: "trixie" }];

/// What the smoke test uses that these kernels have as modules. None needs another module.
const MODULES: &[&str] = &["veth"];

/// A kernel that can be booted.
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    /// In the order in which to insert them.
    pub(super) modules: Vec<PathBuf>,
}

/// The kernel of a series from the cache; downloads the newest of it when it is not there.
pub(super) fn kernel(series: &Series) -> Result<Kernel> {
    let folder = workspace::cache()?.join("kernels").join(series.version);
    if !folder.exists() {
        download(series, &folder).with_context(|| format!("no kernel {} to test on", series.version))?;
    }
    let modules = MODULES.iter().map(|name| folder.join(format!("{name}.ko"))).collect();
    Ok(Kernel { image: folder.join("vmlinuz"), modules })
}

fn download(series: &Series, to: &Path) -> Result<()> {
    report::note(format_args!("fetching Debian's kernel {}", series.version));
    let scratch = tempfile::tempdir().context("make a folder to unpack into")?;
    let suite = apt::Suite::other(series.suite)?;
    let package = suite.first_dependency("linux-image-cloud-amd64")?;
    let file = suite.download(&package, None, scratch.path())?;
    let tree = scratch.path().join("tree");
    apt::unpack(&file, &tree)?;

    let kept = scratch.path().join("kept");
    fs::create_dir(&kept)?;
    let images = files_below(&tree.join("boot"))?;
    let image = images.iter().find(|path| name(path).starts_with("vmlinuz")).context("the package holds no kernel")?;
    fs::copy(image, kept.join("vmlinuz"))?;
    // Merged file systems and others: modules are in /lib or in /usr/lib.
    let mut modules = Vec::new();
    for folder in ["lib/modules", "usr/lib/modules"] {
        modules.extend(files_below(&tree.join(folder))?);
    }
    for module in MODULES {
        let found = modules.iter().find(|path| name(path).split_once(".ko").is_some_and(|(stem, _)| stem == *module));
        let found = found.with_context(|| format!("the package holds no module {module}"))?;
        fs::write(kept.join(format!("{module}.ko")), uncompressed(found)?)?;
    }
    workspace::move_folder(&kept, to)
}

fn uncompressed(module: &Path) -> Result<Vec<u8>> {
    if module.extension().is_none_or(|extension| extension != "xz") {
        return Ok(fs::read(module)?);
    }
    let output = Command::new("xz").arg("-dc").arg(module).output().context("cannot start xz (package xz-utils)")?;
    anyhow::ensure!(output.status.success(), "xz: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Every file below a folder; none when the folder does not exist.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop().filter(|folder| folder.is_dir()) {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    Ok(files)
}
