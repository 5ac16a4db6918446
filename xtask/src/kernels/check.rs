//! Runs the smoke test on this machine's kernel and on every kernel of the matrix.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use super::{
    boot::{self, Outcome},
    fetch::{self, SERIES},
    initramfs,
};
use crate::{apt, report, workspace};

/// Emulated boots that end before the test begins say nothing about us: about one in seven does.
const ATTEMPTS: usize = 4;

/// Programs that boot a kernel, and the Debian packages that bring them.
const PROGRAMS: &[(&str, &str)] = &[("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static"), ("xz", "xz-utils")];

/// Loads, attaches and exercises the kernel programs on each kernel. Expects the kernel object to be built.
pub(crate) fn check(root: &Path) -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the kernels of the matrix are for x86-64");
    let missing: Vec<_> =
        PROGRAMS.iter().filter(|(program, _)| !workspace::on_path(program)).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        apt::install(&missing)?;
    }
    let smoke = build_smoke(root)?;

    let here = report::waiting("this machine's kernel", || boot::on_host(&smoke))?;
    say("this machine", here)?;
    for series in SERIES {
        let kernel = fetch::kernel(series)?;
        let scratch = tempfile::tempdir()?;
        let initramfs = scratch.path().join("initramfs");
        initramfs::write(&initramfs, &smoke, &kernel.modules)?;
        let outcome = report::waiting(&format!("Linux {}", series.version), || {
            let attempt = || boot::under_emulation(&kernel.image, &initramfs);
            let mut outcome = attempt()?;
            for _ in 1..ATTEMPTS {
                let Outcome::NoAnswer { .. } = outcome else { break };
                outcome = attempt()?;
            }
            anyhow::Ok(outcome)
        })?;
        say(&format!("Linux {}", series.version), outcome)?;
    }
    Ok(())
}

fn build_smoke(root: &Path) -> Result<PathBuf> {
    let mut cargo = workspace::cargo();
    workspace::run(cargo.current_dir(root).args(["build", "--workspace", "--locked", "--bin", "kernel-smoke"]))?;
    Ok(workspace::target(root).join("debug/kernel-smoke"))
}

fn say(kernel: &str, outcome: Outcome) -> Result<()> {
    match outcome {
        Outcome::Passed { summary } => report::note(format_args!("{kernel}: {summary}")),
        Outcome::Failed { log } => bail!("the kernel programs do not work on {kernel}:\n{log}"),
        Outcome::NoAnswer { log } => bail!("{kernel} did not get as far as the test, {ATTEMPTS} times:\n{log}"),
    }
    Ok(())
}
