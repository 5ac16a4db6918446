//! What the kernel programs are compiled with: the source of `core` for the running compiler, and a linker for BPF.
//! What is missing is fetched or built, and said.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{apt, report, tools, workspace};

/// The newest bpf-linker that uses LLVM 22, the LLVM of Rust 1.95.
pub(super) const LINKER_VERSION: &str = "0.10.4";

/// Debian's package of the standard library's source, for machines that rustup can not serve: one version for one compiler.
const DEBIAN_RUST_SRC: DebianSource = DebianSource { release: "1.95.0", suite: "trixie-backports", package: "rust-src" };

struct DebianSource {
    release: &'static str,
    suite: &'static str,
    package: &'static str,
}

/// Everything that a build of the kernel programs needs.
pub(crate) struct Toolchain {
    /// Where the compiler's own libraries are.
    pub(super) sysroot: PathBuf,
    /// The program bpf-linker.
    pub(super) linker: PathBuf,
    /// The source of `core`.
    pub(super) library: StandardLibrary,
}

/// Where the source of the standard library is.
pub(super) enum StandardLibrary {
    /// Where cargo looks for it: rustup's component `rust-src`.
    InSysroot,
    /// In this folder, which is called `library`.
    Elsewhere(PathBuf),
}

impl Toolchain {
    /// Finds the parts and fetches what is missing.
    pub(crate) fn prepare() -> Result<Self> {
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let sysroot = PathBuf::from(workspace::output(Command::new(&rustc).args(["--print", "sysroot"]))?);
        let version = workspace::output(Command::new(&rustc).arg("-Vv"))?;
        let release = version.lines().find_map(|line| line.strip_prefix("release: ")).context("rustc -Vv names no release")?;
        Ok(Self { library: standard_library(&sysroot, release)?, linker: linker()?, sysroot })
    }

    pub(super) fn library_path(&self) -> PathBuf {
        match &self.library {
            StandardLibrary::InSysroot => in_sysroot(&self.sysroot),
            StandardLibrary::Elsewhere(library) => library.clone(),
        }
    }
}

fn linker() -> Result<PathBuf> {
    tools::cargo_installed("bpf-linker", LINKER_VERSION, "bpf-linker")
        .context("bpf-linker links the kernel programs and could not be built")
}

fn in_sysroot(sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib/src/rust/library")
}

fn is_library(folder: &Path) -> bool {
    folder.join("core/src/lib.rs").exists() && folder.join("Cargo.lock").exists()
}

fn standard_library(sysroot: &Path, release: &str) -> Result<StandardLibrary> {
    if is_library(&in_sysroot(sysroot)) {
        return Ok(StandardLibrary::InSysroot);
    }
    let unpacked = workspace::cache()?.join(format!("rust-src-{release}/library"));
    if is_library(&unpacked) {
        return Ok(StandardLibrary::Elsewhere(unpacked));
    }

    report::note("the source of the standard library is missing: rustup component add rust-src");
    let rustup = workspace::run(Command::new("rustup").args(["component", "add", "rust-src"]));
    if rustup.is_ok() && is_library(&in_sysroot(sysroot)) {
        return Ok(StandardLibrary::InSysroot);
    }

    report::note("rustup could not fetch it: trying Debian's package rust-src, unpacked and not installed");
    match from_debian(release, &unpacked) {
        Ok(()) => Ok(StandardLibrary::Elsewhere(unpacked)),
        Err(error) => bail!(
            "no source of the standard library for rustc {release}.\n\
             rustup: {}\nDebian: {error:#}\n\
             Put the folder `library` of the compiler's own source release at {}",
            rustup.err().map_or_else(|| "added a component that is not in the sysroot".to_owned(), |error| format!("{error:#}")),
            unpacked.display(),
        ),
    }
}

fn from_debian(release: &str, library: &Path) -> Result<()> {
    let DebianSource { release: packaged, suite, package } = DEBIAN_RUST_SRC;
    if release != packaged {
        bail!("the known package is for {packaged}, not for {release}");
    }
    let scratch = tempfile::tempdir().context("make a folder to unpack into")?;
    let package = apt::Suite::other(suite)?.download(package, Some(release), scratch.path())?;
    let tree = scratch.path().join("tree");
    apt::unpack(&package, &tree)?;
    let found = tree.join(format!("usr/src/rustc-{release}/library"));
    if !is_library(&found) {
        bail!("{} holds no usr/src/rustc-{release}/library", package.display());
    }
    workspace::move_folder(&found, library)
}
