//! The program with all targets, instrumented where it counts (`fuzz/instrumented-rustc`).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace;

/// Optimised as little as is fast enough: the compiler is what one waits for. The checks of a debug build stay.
const PROFILE: &[&str] = &[
    "inherits=\"release\"",
    "opt-level=1",
    "lto=\"off\"",
    "debug-assertions=true",
    "overflow-checks=true",
    "package.mesh-config.opt-level=0",
    "package.mesh-controller.opt-level=0",
    "package.\"*\".opt-level=0",
    "package.\"*\".debug=false",
];

/// Besides our own crates, what is worth being optimised: it works on every input.
const OPTIMISED: &[&str] = &["asn1-rs", "aws-lc-sys", "granit-parser", "libfuzzer-sys", "prost", "serde_json", "serde-saphyr"];

/// Builds the program in a profile folder of its own, `<target>/fuzz`.
pub(super) fn program(root: &Path) -> Result<PathBuf> {
    let target = workspace::target(root);
    let mut cargo = workspace::cargo();
    cargo.current_dir(root).args(["build", "--locked", "--package", "mesh-fuzz", "--features", "libfuzzer", "--profile", "fuzz"]);
    let optimised = OPTIMISED.iter().map(|package| format!("package.{package}.opt-level=1"));
    for setting in PROFILE.iter().map(|setting| (*setting).to_owned()).chain(optimised) {
        cargo.arg("--config").arg(format!("profile.fuzz.{setting}"));
    }
    cargo.env("RUSTC_WRAPPER", root.join("fuzz/instrumented-rustc"));
    // The program is looked for where it is without these.
    cargo.env_remove("CARGO_BUILD_TARGET");
    workspace::run(&mut cargo).context("the fuzz targets do not compile")?;
    Ok(target.join("fuzz/keelson-fuzz"))
}
