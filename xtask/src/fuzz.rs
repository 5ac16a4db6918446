//! `cargo xtask fuzz`: libFuzzer on every parser of foreign bytes (the crate `mesh-fuzz`).
//!
//! The pinned compiler does it: the coverage that libFuzzer steers by is a pass of LLVM. Only our crates and the parsers
//! below them have it, so that the search stays in what we answer for, and what is compiled for it stays small. There is no
//! address sanitizer: parsers are safe Rust.

mod build;
mod run;

use std::{num::NonZero, path::PathBuf, thread, time::Duration};

use anyhow::{Result, bail, ensure};

use self::run::Session;
use crate::{ebpf, report, workspace};

/// Search for inputs that break a parser, on every core
///
/// The targets are the folders in fuzz/seeds. What is learnt about a target is kept in the target folder, so that a second run
/// goes on where the first ended.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these targets
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long each target is searched
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
    /// Do not search: try this input on the one target that is named
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { targets, seconds, input } = arguments;
    let root = workspace::root()?;
    let known = run::targets(&root)?;
    if let Some(unknown) = targets.iter().find(|target| !known.contains(target)) {
        bail!("there is no target {unknown}; there are {}", known.join(", "));
    }
    report::step("kernel object", || ebpf::object(&root).map(drop))?;
    let session =
        report::step("build of the fuzz targets", || build::program(&root).map(|program| Session::new(&root, program)))?;
    match input {
        Some(input) => {
            let [target] = &targets[..] else { bail!("name one target for --input") };
            session.reproduce(target, input)
        }
        None => search(&session, if targets.is_empty() { &known } else { targets }, *seconds),
    }
}

/// Every target for a minute, for `cargo xtask test`.
pub(crate) fn check(root: &std::path::Path) -> Result<()> {
    let session = Session::new(root, build::program(root)?);
    search(&session, &run::targets(root)?, 60)
}

fn search(session: &Session, targets: &[String], seconds: u64) -> Result<()> {
    ensure!(seconds > 0, "--seconds 0 would search forever");
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let broken = session.search(targets, Duration::from_secs(seconds), cores)?;
    ensure!(broken.is_empty(), "broken: {}", broken.join(", "));
    Ok(())
}
