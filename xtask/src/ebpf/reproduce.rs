//! Whether the object depends on the sources alone: two builds in two other folders must give the bytes of the first.

use std::{fs, path::Path, thread};

use anyhow::{Context, Result, anyhow, bail};

use super::{build, fingerprint, toolchain::Toolchain};
use crate::{report, workspace};

/// Builds the kernel object from two copies of the sources and compares both with the object of the tree itself.
///
/// What passed once for the same sources, compiler and flags is remembered and not repeated.
pub(crate) fn check(root: &Path) -> Result<()> {
    let passed = fingerprint::cached(root, "reproducible")?;
    if passed.exists() {
        report::note("the kernel object is reproducible (checked earlier for these sources)");
        return Ok(());
    }

    let built = super::object(root)?;
    let expected = fs::read(&built.path)?;
    let toolchain = Toolchain::prepare()?;
    let copies = report::waiting("building the kernel object in two other folders", || {
        thread::scope(|scope| {
            let build = || scope.spawn(|| build_copy(&toolchain, root));
            [build(), build()].map(|copy| copy.join().unwrap_or_else(|_| Err(anyhow!("the build of a copy panicked"))))
        })
    });
    for copy in copies {
        same(&expected, &copy?)?;
    }
    report::note(format_args!("the kernel object is reproducible: three builds, the same {} bytes", expected.len()));
    workspace::write_atomically(&passed, b"")
}

fn same(expected: &[u8], copy: &[u8]) -> Result<()> {
    if expected == copy {
        return Ok(());
    }
    let offset = expected.iter().zip(copy).position(|(ours, theirs)| ours != theirs).unwrap_or(expected.len().min(copy.len()));
    bail!(
        "the kernel object depends on where it is built: {} and {} bytes, first difference at offset {offset}; \
         is a path in it (strings keelson.bpf.o), or the order of a map?",
        expected.len(),
        copy.len(),
    );
}

fn build_copy(toolchain: &Toolchain, root: &Path) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().context("make a folder for a copy of the sources")?;
    let copy = folder.path().join("sources");
    let manifests = ["Cargo.toml", "rust-toolchain.toml"].map(Into::into);
    for file in fingerprint::sources(root)?.iter().chain(&manifests) {
        let to = copy.join(file);
        fs::create_dir_all(to.parent().expect("the copy lies in a folder"))?;
        fs::copy(root.join(file), &to).with_context(|| format!("copy {}", file.display()))?;
    }
    build::compile(toolchain, &copy, &folder.path().join("target"), |cargo| workspace::output(cargo).map(drop))
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn names_the_first_byte_that_differs() {
        same(b"abcd", b"abcd").unwrap();
        for (copy, offset) in [(&b"abxd"[..], 2), (b"abc", 3), (b"abcde", 4)] {
            let error = same(b"abcd", copy).unwrap_err().to_string();
            assert!(error.contains(&format!("offset {offset};")), "{error}");
        }
    }
}
