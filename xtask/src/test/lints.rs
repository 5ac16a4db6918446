//! Formatting, clippy, spelling and licences.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{report, tools, workspace};

/// Every crate of ours, the kernel programs too. Generated files are formatted by their generator.
pub(super) fn format(root: &Path) -> Result<()> {
    for (folder, packages) in [(root.to_path_buf(), &["--all"][..]), (root.join("mesh-ebpf"), &[])] {
        let mut cargo = workspace::cargo();
        cargo.current_dir(&folder).args(["fmt", "--check"]).args(packages);
        if !report::on_terminal() {
            cargo.args(["--", "--color", "never"]);
        }
        workspace::run(&mut cargo).with_context(|| format!("not formatted: run `cargo fmt` in {}", folder.display()))?;
    }
    Ok(())
}

/// Warnings are errors here, and here only: work in progress may warn.
pub(super) fn clippy(root: &Path) -> Result<()> {
    let mut cargo = workspace::cargo();
    workspace::run(cargo.current_dir(root).args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))
}

pub(super) fn spelling(root: &Path) -> Result<()> {
    workspace::run(Command::new(tools::find(&tools::TYPOS)?).current_dir(root).args(["--config", "typos.toml"]))
        .context("misspelt, or a name for typos.toml")
}

/// Licences, banned crates and sources, of the workspace and of the kernel programs.
pub(super) fn licences(root: &Path) -> Result<()> {
    let deny = tools::find(&tools::DENY)?;
    for manifest in ["Cargo.toml", "mesh-ebpf/Cargo.toml"] {
        let mut command = Command::new(&deny);
        command.current_dir(root).args([
            "--log-level",
            "error",
            "--locked",
            "--manifest-path",
            manifest,
            "--config",
            "deny.toml",
        ]);
        workspace::run(command.args(["check", "bans", "licenses", "sources"]))
            .with_context(|| format!("{manifest} breaks a rule of deny.toml"))?;
    }
    report::note("advisories are not checked here: their database is fetched over the network (`cargo deny check advisories`)");
    Ok(())
}
