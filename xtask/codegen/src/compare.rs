//! What differs between the files just generated and those that are checked in.

use std::{collections::BTreeSet, ffi::OsString, fmt, fs, io, path::Path};

use anyhow::{Context, Result};

/// One checked-in file that is not what the generator writes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Not checked in yet.
    Missing(OsString),
    /// Checked in, and its content differs.
    Differs(OsString),
    /// Checked in, and nothing generates it any more.
    Stale(OsString),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "new      {}", name.display()),
            Self::Differs(name) => write!(f, "changed  {}", name.display()),
            Self::Stale(name) => write!(f, "removed  {}", name.display()),
        }
    }
}

/// Compares the files of two folders by name and content. A `checked_in` folder that does not exist is an empty one.
pub(crate) fn changes(generated: &Path, checked_in: &Path) -> Result<Vec<Change>> {
    let (new, old) = (names(generated)?, names(checked_in)?);
    let mut changes = Vec::new();
    for name in new.union(&old) {
        let change = match (new.contains(name), old.contains(name)) {
            (true, false) => Change::Missing(name.clone()),
            (false, _) => Change::Stale(name.clone()),
            (true, true) if fs::read(generated.join(name))? == fs::read(checked_in.join(name))? => continue,
            (true, true) => Change::Differs(name.clone()),
        };
        changes.push(change);
    }
    Ok(changes)
}

/// Makes `checked_in` what `generated` is. Files that are equal keep their modification time: nothing rebuilds for them.
pub(crate) fn apply(changes: &[Change], generated: &Path, checked_in: &Path) -> Result<()> {
    fs::create_dir_all(checked_in).with_context(|| format!("make {}", checked_in.display()))?;
    for change in changes {
        match change {
            Change::Missing(name) | Change::Differs(name) => {
                fs::copy(generated.join(name), checked_in.join(name))
                    .map(drop)
                    .with_context(|| format!("write {}", name.display()))?;
            }
            Change::Stale(name) => {
                fs::remove_file(checked_in.join(name)).with_context(|| format!("remove {}", name.display()))?;
            }
        }
    }
    Ok(())
}

fn names(folder: &Path) -> Result<BTreeSet<OsString>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", folder.display())),
    };
    entries.map(|entry| Ok(entry?.file_name())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_and_applies_every_kind_of_change() {
        let (new, old) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (folder, name, text) in [
            (&new, "added", "1"),
            (&new, "edited", "2"),
            (&old, "edited", "1"),
            (&old, "gone", "1"),
            (&new, "same", "1"),
            (&old, "same", "1"),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }

        let found = changes(new.path(), old.path()).unwrap();
        assert_eq!(found, [Change::Missing("added".into()), Change::Differs("edited".into()), Change::Stale("gone".into())]);

        apply(&found, new.path(), old.path()).unwrap();
        assert_eq!(changes(new.path(), old.path()).unwrap(), []);
    }
}
