//! `cargo xtask codegen`: the generated files that are checked in.
//!
//! The generators are a program of their own (`xtask/codegen`), because their dependencies are heavy.

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::workspace;

/// Regenerate the checked-in generated files (the Rust of mesh-proto/proto)
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Change nothing: fail when a file is not what would be generated
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = workspace::root()?;
    if arguments.check { check(&root) } else { generate(&root, &[]) }
}

/// Fails when a generated file is not what the generators write.
pub(crate) fn check(root: &Path) -> Result<()> {
    generate(root, &["--check"])
}

fn generate(root: &Path, arguments: &[&str]) -> Result<()> {
    // The whole workspace's features: what is compiled here serves the builds of everything else too.
    workspace::run(workspace::cargo().current_dir(root).args(["build", "--quiet", "--workspace", "--bin", "codegen"]))?;
    let program = workspace::target(root).join("debug/codegen");
    workspace::run(Command::new(program).arg("--root").arg(root).args(arguments))
}
