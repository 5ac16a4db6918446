//! What a cluster needs from the machine; everything that is missing is named at once.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::{apt, report, workspace};

/// Programs that are run, and the Debian package that brings each.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    // kube-proxy and portmap run it.
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("nice", "coreutils"),
];

/// Capabilities by their bit in `CapEff` (linux/capability.h).
const CAPABILITIES: &[(u32, &str)] = &[(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN"), (39, "CAP_BPF")];
const SYS_RESOURCE: u32 = 24;

/// Checks everything; installs programs that are missing.
pub(super) fn check(data: &Path) -> Result<()> {
    let missing: Vec<_> = capabilities()?.into_iter().filter(|(_, has)| !has).map(|(name, _)| name).collect();
    ensure!(
        missing.is_empty(),
        "a cluster needs root, and this process lacks {}: use sudo, or a container with --privileged",
        missing.join(", ")
    );
    let mut packages: Vec<_> =
        PROGRAMS.iter().filter(|(program, _)| !workspace::on_path(program)).map(|(_, package)| *package).collect();
    packages.dedup();
    if !packages.is_empty() {
        report::note(format_args!("the cluster uses programs that are missing, of the packages {}", packages.join(", ")));
        apt::install(&packages).with_context(|| format!("install by hand: {}", packages.join(" ")))?;
    }
    overlay(data)
}

/// Containers' file systems are overlays, and so is what a node changes of the machine's.
fn overlay(data: &Path) -> Result<()> {
    fs::create_dir_all(data).with_context(|| format!("make {}", data.display()))?;
    let scratch = tempfile::tempdir_in(data).with_context(|| format!("make a folder in {}", data.display()))?;
    let script =
        "cd \"$0\" && mkdir lower upper work root && mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work root";
    let tried = Command::new("unshare").args(["--mount", "sh", "-c", script]).arg(scratch.path()).output();
    let tried = tried.context("cannot start unshare")?;
    if !tried.status.success() {
        bail!(
            "no overlay can be mounted in {}: put a disk's file system there (in a container: a volume). {}",
            data.display(),
            String::from_utf8_lossy(&tried.stderr).trim_end()
        );
    }
    Ok(())
}

/// Whether this process may lower the score by which the kernel chooses whom to kill when memory runs out.
pub(super) fn may_protect_from_oom() -> Result<bool> {
    Ok(effective_capabilities()? & (1 << SYS_RESOURCE) != 0)
}

fn capabilities() -> Result<Vec<(&'static str, bool)>> {
    let effective = effective_capabilities()?;
    Ok(CAPABILITIES.iter().map(|(bit, name)| (*name, effective & (1 << bit) != 0)).collect())
}

fn effective_capabilities() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no CapEff in /proc/self/status")?;
    u64::from_str_radix(line.trim(), 16).context("CapEff is not hexadecimal")
}
