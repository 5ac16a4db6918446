//! From sources to `keelson.bpf.o`.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{
    fingerprint,
    strip::strip_debug_info,
    toolchain::{StandardLibrary, Toolchain},
};
use crate::{report, workspace};

/// The kernel's target triple: BPF, little-endian, as every CPU that we run on.
const TARGET: &str = "bpfel-unknown-none";

/// The object file that a build left.
pub(crate) struct Object {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its size in bytes.
    pub(crate) size: usize,
    /// Whether anything was compiled for it.
    pub(crate) origin: Origin,
}

/// How an object came about.
pub(crate) enum Origin {
    /// The sources were compiled.
    Built,
    /// An earlier build of the same sources was found in the cache.
    Cached,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Built => "built",
            Self::Cached => "unchanged",
        })
    }
}

/// Makes sure that `<target>/keelson/keelson.bpf.o` is the object of the present sources.
pub(crate) fn object(root: &Path) -> Result<Object> {
    let path = workspace::target(root).join("keelson/keelson.bpf.o");
    let cached = fingerprint::cached(root, "o")?;
    let (bytes, origin) = if cached.exists() {
        (fs::read(&cached).with_context(|| format!("read {}", cached.display()))?, Origin::Cached)
    } else {
        let toolchain = Toolchain::prepare()?;
        report::note("compiling the kernel programs");
        let bytes = compile(&toolchain, root, &workspace::target(root).join("ebpf"), workspace::run)?;
        workspace::write_atomically(&cached, &bytes)?;
        (bytes, Origin::Built)
    };
    // An equal file keeps its time: whoever includes it is not compiled again.
    if fs::read(&path).ok().as_ref() != Some(&bytes) {
        workspace::write_atomically(&path, &bytes)?;
    }
    Ok(Object { path, size: bytes.len(), origin })
}

/// Lints the kernel programs, for their target and with their flags; a warning is an error.
pub(crate) fn clippy(root: &Path) -> Result<()> {
    let mut cargo = cargo(&Toolchain::prepare()?, root, &workspace::target(root).join("ebpf"), "clippy")?;
    workspace::run(cargo.args(["--", "-D", "warnings"]))
}

/// Compiles the sources below `root` and returns the object without debug information. `run` runs cargo.
pub(super) fn compile(
    toolchain: &Toolchain,
    root: &Path,
    target: &Path,
    run: impl FnOnce(&mut Command) -> Result<()>,
) -> Result<Vec<u8>> {
    let mut cargo = cargo(toolchain, root, target, "build")?;
    run(&mut cargo).context("the kernel programs do not compile")?;
    let linked = target.join(TARGET).join("release/keelson");
    let linked = fs::read(&linked).with_context(|| format!("read {}", linked.display()))?;
    strip_debug_info(&linked)
}

/// `cargo <subcommand>` of mesh-ebpf for the kernel's target.
pub(super) fn cargo(toolchain: &Toolchain, root: &Path, target: &Path, subcommand: &str) -> Result<Command> {
    let mut cargo = workspace::cargo();
    cargo
        .current_dir(root.join("mesh-ebpf"))
        .args([subcommand, "--locked", "--release", "-Zbuild-std=core", "--target", TARGET, "--target-dir"])
        .arg(target)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(toolchain, root)?.join("\x1f"))
        // bpf-linker uses the LLVM of the compiler itself.
        .env("LD_LIBRARY_PATH", toolchain.sysroot.join("lib"));
    // What a developer set for other targets must not change the object.
    for variable in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"] {
        cargo.env_remove(variable);
    }
    if let StandardLibrary::Elsewhere(library) = &toolchain.library {
        cargo.env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
    }
    Ok(cargo)
}

/// The part of the flags that does not depend on where things are; it is part of the fingerprint.
pub(super) fn portable_flags() -> Vec<String> {
    vec![
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        // BTF is made from the debug information, which is stripped afterwards.
        "-Cdebuginfo=2".to_owned(),
        // The third version of the instruction set (kernel 5.12) has atomic additions that return the old value.
        "-Ctarget-cpu=v3".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ]
}

fn flags(toolchain: &Toolchain, root: &Path) -> Result<Vec<String>> {
    let mut flags = portable_flags();
    flags.push(format!("-Clinker={}", toolchain.linker.display()));
    let mut remap = |from: &Path, to: &str| flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    remap(root, "/keelson");
    remap(&toolchain.library_path(), "/rustc/library");
    let registry = cargo_home()?.join("registry/src");
    if let Ok(entries) = fs::read_dir(&registry) {
        for entry in entries {
            remap(&entry?.path(), "/cargo");
        }
    }
    Ok(flags)
}

fn cargo_home() -> Result<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    home.context("no home directory: set CARGO_HOME")
}
