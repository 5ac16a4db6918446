//! What the tests need from the machine. Everything that is missing is named at once; nothing is skipped for it.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::{apt, report, workspace};

/// Programs that tests and harness run, and the Debian package that brings each.
const PROGRAMS: &[(&str, &str)] = &[
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("python3", "python3"),
    ("tcpdump", "tcpdump"),
    ("unshare", "util-linux"),
];

/// Capabilities by their bit in `CapEff` (linux/capability.h).
const CAPABILITIES: &[(u32, &str)] = &[
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

/// One thing that is needed, and how to see that it is there.
struct Need {
    what: &'static str,
    check: fn() -> Result<()>,
}

const NEEDS: &[Need] = &[
    Need { what: "root and its capabilities", check: capabilities },
    Need { what: "a writable cgroup v2 hierarchy", check: cgroup2 },
    Need { what: "the kernel's own type information (CONFIG_DEBUG_INFO_BTF)", check: btf },
    Need { what: "a BPF file system", check: bpffs },
    Need { what: "network namespaces with veth devices", check: veth },
];

pub(super) fn check() -> Result<()> {
    install_programs()?;
    let missing: Vec<String> =
        NEEDS.iter().filter_map(|need| (need.check)().err().map(|error| format!("- {}: {error:#}", need.what))).collect();
    ensure!(missing.is_empty(), "this machine or user lacks what the tests need:\n{}", missing.join("\n"));
    Ok(())
}

fn install_programs() -> Result<()> {
    let mut packages: Vec<_> =
        PROGRAMS.iter().filter(|(program, _)| !workspace::on_path(program)).map(|(_, package)| *package).collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    report::note(format_args!("the tests use programs that are missing, of the packages {}", packages.join(", ")));
    apt::install(&packages).with_context(|| format!("install by hand: {}", packages.join(" ")))
}

fn capabilities() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let missing = missing_capabilities(&status)?;
    ensure!(missing.is_empty(), "this process lacks {}: run as root, in a container with --privileged", missing.join(", "));
    Ok(())
}

/// The capabilities that a process with this `/proc/<pid>/status` lacks.
fn missing_capabilities(status: &str) -> Result<Vec<&'static str>> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no CapEff in /proc/self/status")?;
    let effective = u64::from_str_radix(effective.trim(), 16).context("CapEff is not hexadecimal")?;
    Ok(CAPABILITIES.iter().filter(|(bit, _)| effective & (1 << bit) == 0).map(|(_, name)| *name).collect())
}

fn cgroup2() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let mount = cgroup2_mount(&mounts).context("none is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")?;
    tempfile::Builder::new()
        .prefix("keelson-check-")
        .tempdir_in(mount)
        .and_then(|folder| fs::remove_dir(folder.keep()))
        .with_context(|| format!("no cgroup can be made in {mount}"))
}

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or on hybrid hosts `/sys/fs/cgroup/unified`.
fn cgroup2_mount(mountinfo: &str) -> Option<&str> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4)).flatten()
    })
}

fn btf() -> Result<()> {
    let types = fs::read("/sys/kernel/btf/vmlinux").context("/sys/kernel/btf/vmlinux is not readable")?;
    // Struct bpf_sk_lookup got this field in 5.17; with it come all the program types that are used, sk_lookup the newest.
    let needed = b"\0ingress_ifindex\0";
    ensure!(types.windows(needed.len()).any(|window| window == needed), "this kernel is older than 6.1");
    Ok(())
}

fn bpffs() -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    in_own_namespace("--mount", &format!("mount -t bpf bpf '{}'", folder.path().display()))
}

fn veth() -> Result<()> {
    in_own_namespace("--net", "ip link add veth0 type veth peer name veth1 && ip link set lo up")
}

/// Runs a command of the shell in a new namespace, which ends with it.
fn in_own_namespace(kind: &str, command: &str) -> Result<()> {
    let output = Command::new("unshare").args([kind, "sh", "-c", command]).output().context("cannot start unshare")?;
    if !output.status.success() {
        bail!("`{command}` in a new namespace: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_on_unified_and_hybrid_hosts() {
        let hybrid = "30 23 0:25 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n31 30 0:26 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw\n";
        let unified = "30 23 0:25 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        for (mountinfo, expected) in [
            (hybrid, Some("/sys/fs/cgroup/unified")),
            (unified, Some("/sys/fs/cgroup")),
            ("31 30 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", None),
        ] {
            assert_eq!(cgroup2_mount(mountinfo), expected);
        }
    }

    #[test]
    fn names_the_capabilities_that_are_missing() {
        for (effective, expected) in [
            ("000001ffffffffff", &[][..]),
            ("0000000000000000", &["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_PERFMON", "CAP_BPF"]),
            ("0000017fffffffff", &["CAP_BPF"]),
        ] {
            assert_eq!(missing_capabilities(&format!("Name:\tx\nCapEff:\t{effective}\n")).unwrap(), expected);
        }
    }
}
