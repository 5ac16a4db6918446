//! The name under which a built object is cached: a hash of everything that decides its bytes.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::{build, toolchain};
use crate::workspace;

/// Bump this when the way in which the object is made changes beyond what is hashed.
const RECIPE: &str = "1";

/// `<cache>/ebpf/<hash of the sources below root, compiler, linker and flags>.<extension>`.
pub(super) fn cached(root: &Path, extension: &str) -> Result<PathBuf> {
    let mut hash = Sha256::new();
    let mut part = |name: &str, content: &[u8]| {
        // Lengths first: no two lists of parts hash alike.
        for bytes in [name.as_bytes(), content] {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
    };

    part("recipe", RECIPE.as_bytes());
    part("compiler", compiler()?.as_bytes());
    part("linker", toolchain::LINKER_VERSION.as_bytes());
    part("flags", build::portable_flags().join(" ").as_bytes());
    part("workspace", workspace_package(root)?.as_bytes());
    for file in sources(root)? {
        part(&file.display().to_string(), &fs::read(root.join(&file))?);
    }

    Ok(workspace::cache()?.join("ebpf").join(format!("{:x}.{extension}", hash.finalize())))
}

fn compiler() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    workspace::output(Command::new(rustc).arg("-Vv"))
}

/// What `mesh-common` inherits from the workspace: of the root manifest, this section alone decides the object.
fn workspace_package(root: &Path) -> Result<String> {
    let manifest = fs::read_to_string(root.join("Cargo.toml")).context("read the workspace's Cargo.toml")?;
    let section = manifest.lines().skip_while(|line| line.trim() != "[workspace.package]").skip(1);
    Ok(section.take_while(|line| !line.starts_with('[')).collect::<Vec<_>>().join("\n"))
}

/// Every file of the two crates that make the object, relative to `root` and sorted.
pub(super) fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![PathBuf::from("mesh-common"), PathBuf::from("mesh-ebpf")];
    while let Some(folder) = open.pop() {
        let entries = fs::read_dir(root.join(&folder)).with_context(|| format!("read {}", root.join(&folder).display()))?;
        for entry in entries {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            match entry.file_type()?.is_dir() {
                true if entry.file_name() == "target" => {}
                true => open.push(path),
                false => files.push(path),
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("Cargo.toml", "[workspace]\n[workspace.package]\nedition = \"2024\"\n[workspace.dependencies]\nx = \"1\"\n"),
            ("mesh-common/src/lib.rs", "pub mod ports;"),
            ("mesh-ebpf/src/main.rs", "fn main() {}"),
        ] {
            fs::create_dir_all(root.path().join(file).parent().unwrap()).unwrap();
            fs::write(root.path().join(file), text).unwrap();
        }
        root
    }

    #[test]
    fn follows_the_sources_and_nothing_else() {
        let changes = [
            ("mesh-ebpf/target/left-over", "x", false),
            ("mesh-node.rs", "x", false),
            ("Cargo.toml", "[workspace.package]\nedition = \"2024\"\n", false),
            ("Cargo.toml", "[workspace.package]\nedition = \"2021\"\n", true),
            ("mesh-ebpf/src/new.rs", "", true),
            ("mesh-common/src/lib.rs", "pub mod names;", true),
        ];
        for (file, text, expected) in changes {
            let root = tree();
            let before = cached(root.path(), "o").unwrap();
            fs::create_dir_all(root.path().join(file).parent().unwrap()).unwrap();
            fs::write(root.path().join(file), text).unwrap();
            assert_eq!(cached(root.path(), "o").unwrap() != before, expected, "{file}: {text}");
        }
    }
}
