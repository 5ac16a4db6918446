//! Our programs without a library that an image would have to bring along: linked to the C library's archive.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use object::{
    LittleEndian, elf,
    read::elf::{FileHeader, ProgramHeader},
};

use super::programs::Ours;
use crate::{ebpf, workspace};

/// As cargo has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// As in the laboratory: close to release, built in minutes
    Dev,
    /// What is shipped
    Release,
}

/// Builds the programs and returns the folder where they are.
pub(super) fn build(root: &Path, programs: &[&Ours], profile: Profile) -> Result<PathBuf> {
    let object = ebpf::object(root)?;
    let triple = host()?;
    // A folder of its own: the flags differ, and minutes of it would keep everyone else from the lock of the other one.
    let target = workspace::target(root).join("image");
    let mut cargo = workspace::cargo();
    cargo.current_dir(root).args(["build", "--quiet", "--locked", "--bins", "--target", &triple, "--target-dir"]).arg(&target);
    cargo.arg("--config").arg(format!("target.{triple}.rustflags=[\"-C\", \"target-feature=+crt-static\"]"));
    let folder = match profile {
        Profile::Dev => {
            // Half of the size is for debuggers, which an image has not.
            cargo.args(["--config", "profile.dev.strip=\"debuginfo\""]);
            "debug"
        }
        Profile::Release => {
            cargo.arg("--release");
            "release"
        }
    };
    for program in programs {
        cargo.args(["--package", program.name]);
        for beside in program.beside {
            cargo.args(["--package", beside.package]);
        }
    }
    // Where the node's build script looks is another target folder.
    cargo.env("KEELSON_EBPF_OBJECT", &object.path);
    // These would take the place of the flags above.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_BUILD_TARGET");
    workspace::run(&mut cargo)?;
    let folder = target.join(&triple).join(folder);
    for program in programs {
        for name in [program.name].into_iter().chain(program.beside.iter().map(|beside| beside.program)) {
            check_static(&folder.join(name))?;
        }
    }
    Ok(folder)
}

fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = workspace::output(Command::new(rustc).arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not say what it builds for")
}

/// A program that names an interpreter asks it for libraries.
fn check_static(program: &Path) -> Result<()> {
    let data = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let dynamic = wants_libraries(&data).with_context(|| format!("{} is no program", program.display()))?;
    ensure!(!dynamic, "{} needs libraries, which its image would lack", program.display());
    Ok(())
}

fn wants_libraries(data: &[u8]) -> Result<bool> {
    let header = elf::FileHeader64::<LittleEndian>::parse(data)?;
    let segments = header.program_headers(LittleEndian, data)?;
    Ok(segments.iter().any(|segment| segment.p_type(LittleEndian) == elf::PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_the_system_wants_libraries() {
        let shell = fs::read("/bin/sh").unwrap();
        assert!(wants_libraries(&shell).unwrap());
        assert!(wants_libraries(b"#!/bin/sh\n").is_err());
    }
}
