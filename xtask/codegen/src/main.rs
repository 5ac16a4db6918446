//! Writes the files that are generated and checked in.
//!
//! A program of its own, run by `cargo xtask codegen`, so that the everyday `cargo xtask` builds without the
//! protocol-buffer compiler and the schemas. No `protoc` is needed: `protox` is a compiler in Rust.

mod compare;
mod crds;
mod proto;
mod structural;

use std::{fs, path::PathBuf};

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
    let (messages, definitions) = (scratch.path().join("messages"), scratch.path().join("definitions"));
    for folder in [&messages, &definitions] {
        fs::create_dir(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    proto::generate(&root, &messages)?;
    crds::generate(&definitions)?;

    let mut stale = 0;
    for (generated, checked_in) in [(messages, "mesh-proto/src/generated"), (definitions, "deploy/helm/keelson/crds")] {
        let target = root.join(checked_in);
        let changes = compare::changes(&generated, &target)?;
        for change in &changes {
            println!("{change}");
        }
        stale += changes.len();
        if !arguments.check {
            compare::apply(&changes, &generated, &target)?;
        }
    }
    if arguments.check && stale > 0 {
        bail!("{stale} generated file(s) are not up to date: run `cargo xtask codegen` and commit the result");
    }
    Ok(())
}
