//! Writes the files that are generated and checked in.
//!
//! A program of its own, run by `cargo xtask codegen`, so that the everyday `cargo xtask` builds without the
//! protocol-buffer compiler. No `protoc` is needed: `protox` is a compiler in Rust.

mod compare;
mod proto;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;

/// Regenerate the checked-in generated files.
#[derive(Parser)]
struct Arguments {
    /// Root of the workspace.
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// Change nothing: fail when a file is not what would be generated.
    #[arg(long)]
    check: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let root = arguments.root.canonicalize().with_context(|| format!("no workspace at {}", arguments.root.display()))?;

    let scratch = tempfile::tempdir().context("make a folder for the generated files")?;
    proto::generate(&root, scratch.path())?;

    let target = root.join("mesh-proto/src/generated");
    let changes = compare::changes(scratch.path(), &target)?;
    for change in &changes {
        println!("{change}");
    }
    if !arguments.check {
        return compare::apply(&changes, scratch.path(), &target);
    }
    if !changes.is_empty() {
        bail!("{} generated file(s) are not up to date: run `cargo xtask codegen` and commit the result", changes.len());
    }
    Ok(())
}
