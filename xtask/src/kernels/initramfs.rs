//! The file system in memory that a kernel boots into: a shell, the smoke test, `ip`, and the libraries of both.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::workspace;

/// The first process: prepares what a machine has, runs the test, and ends the emulator by a restart.
const INIT: &str = "\
#!/bin/busybox sh
busybox=/bin/busybox
$busybox mount -t proc none /proc
$busybox mount -t sysfs none /sys
$busybox mount -t devtmpfs none /dev
$busybox mount -t tmpfs none /run
$busybox mount -t cgroup2 none /sys/fs/cgroup
for module in /modules/*.ko; do $busybox insmod $module; done
export PATH=/bin
/bin/kernel-smoke 2>&1
$busybox reboot -f
";

/// Writes an archive that a kernel takes as its first file system.
pub(super) fn write(archive: &Path, smoke: &Path, modules: &[PathBuf]) -> Result<()> {
    let scratch = tempfile::tempdir().context("make a folder for the file system")?;
    let tree = scratch.path();
    for folder in ["bin", "dev", "modules", "proc", "run", "sys", "tmp"] {
        fs::create_dir(tree.join(folder))?;
    }
    fs::write(tree.join("init"), INIT)?;
    fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))?;

    let ip = which("ip")?;
    let programs = [(which("busybox")?, "busybox"), (ip.clone(), "ip"), (smoke.to_owned(), "kernel-smoke")];
    for (program, name) in &programs {
        fs::copy(program, tree.join("bin").join(name)).with_context(|| format!("copy {}", program.display()))?;
    }
    for library in libraries(&[&ip, smoke])? {
        let to = tree.join(library.strip_prefix("/").unwrap_or(&library));
        fs::create_dir_all(to.parent().context("a library lies in a folder")?)?;
        fs::copy(&library, &to).with_context(|| format!("copy {}", library.display()))?;
    }
    for module in modules {
        fs::copy(module, tree.join("modules").join(module.file_name().context("a module has a name")?))?;
    }
    pack(tree, archive)
}

fn which(program: &str) -> Result<PathBuf> {
    workspace::find_on_path(program).with_context(|| format!("no program {program}"))
}

/// The shared libraries that programs of this machine need, the loader too.
fn libraries(programs: &[&Path]) -> Result<BTreeSet<PathBuf>> {
    let mut libraries = BTreeSet::new();
    for program in programs {
        libraries.extend(parse_ldd(&workspace::output(Command::new("ldd").arg(program))?));
    }
    Ok(libraries)
}

/// Lines such as `libc.so.6 => /lib/libc.so.6 (0x7f..)` and `/lib64/ld-linux-x86-64.so.2 (0x7f..)`.
fn parse_ldd(output: &str) -> Vec<PathBuf> {
    let words = output.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(PathBuf::from).collect()
}

fn pack(tree: &Path, archive: &Path) -> Result<()> {
    let mut find = Command::new("find").arg(".").current_dir(tree).stdout(Stdio::piped()).spawn().context("cannot start find")?;
    let names = find.stdout.take().context("find has an output")?;
    let out = File::create(archive).with_context(|| format!("write {}", archive.display()))?;
    let mut cpio = Command::new("busybox");
    cpio.args(["cpio", "-o", "-H", "newc"]).current_dir(tree).stdin(names).stdout(out).stderr(Stdio::null());
    workspace::run(&mut cpio)?;
    anyhow::ensure!(find.wait()?.success(), "find failed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_libraries_of_a_program() {
        let output =
            "\tlinux-vdso.so.1 (0x7ff7)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7ff7)\n\t/lib64/ld-linux-x86-64.so.2 (0x7ff7)\n";
        assert_eq!(parse_ldd(output), [PathBuf::from("/lib/x/libc.so.6"), PathBuf::from("/lib64/ld-linux-x86-64.so.2")]);
        assert!(parse_ldd("\tstatically linked\n").is_empty());
    }
}
