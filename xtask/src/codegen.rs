//! `cargo xtask codegen`: the generated files that are checked in.
//!
//! The generators are a program of their own (`xtask/codegen`), because their dependencies are heavy.

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
    let mut cargo = workspace::cargo();
    cargo.current_dir(&root).args(["run", "--quiet", "--package", "codegen", "--", "--root"]).arg(&root);
    if arguments.check {
        cargo.arg("--check");
    }
    workspace::run(&mut cargo)
}
