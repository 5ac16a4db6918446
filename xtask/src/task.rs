//! `cargo xtask task`: the how-tos of `samples/tasks`, each tried on a laboratory with the shop.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail, ensure};
use harness::{Binaries, Lab, LabOptions, task::Task};

use crate::{lab, report, workspace};

/// Try the tasks of samples/tasks: each check fails before the task's manifests are applied and passes after
///
/// One laboratory is made for all tasks that are named: two nodes and the sample shop. Needs root.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these tasks
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Only say which tasks there are
    #[arg(long)]
    list: bool,
    /// Use the programs in this folder instead of building them
    #[arg(long, value_name = "FOLDER")]
    binaries: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = workspace::root()?;
    let all = harness::task::tasks(&root.join("samples/tasks"))?;
    if arguments.list {
        let width = all.iter().map(|task| task.name.len()).max().unwrap_or(0);
        for task in &all {
            println!("{:<width$}  {}", task.name, task.check.about);
        }
        return Ok(());
    }
    let known = || all.iter().map(|task| task.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(unknown) = arguments.names.iter().find(|name| all.iter().all(|task| task.name != **name)) {
        bail!("there is no task {unknown}; there are {}", known());
    }
    let wanted = all.iter().filter(|task| arguments.names.is_empty() || arguments.names.contains(&task.name));
    try_each(&root, &wanted.collect::<Vec<_>>(), arguments)
}

fn try_each(root: &std::path::Path, tasks: &[&Task], arguments: &Arguments) -> Result<()> {
    let binaries = arguments.binaries.clone().map_or_else(lab::programs, Ok)?;
    let folder = harness::copy_of(&root.join("samples/shop/manifests"))?;
    let options = LabOptions {
        binaries: Binaries { folder: binaries },
        deadline: Duration::from_mins(2),
        ..LabOptions::new(folder.path())?
    };
    let lab = report::step("two nodes and the shop", || Lab::up(options))?;
    let mut failed = Vec::new();
    for task in tasks {
        let told = report::step(&task.name, || {
            report::note(&task.check.about);
            let told = task.run(&lab)?;
            report::note(format_args!("before: {}", told.before));
            report::note(format_args!("after {} ms: as expected", told.took.as_millis()));
            Ok(())
        });
        if let Err(error) = told {
            report::note(format_args!("{error:#}"));
            failed.push(task.name.as_str());
        }
    }
    report::step("clean up", || lab.down())?;
    ensure!(failed.is_empty(), "{} of {} tasks failed: {}", failed.len(), tasks.len(), failed.join(", "));
    Ok(())
}
