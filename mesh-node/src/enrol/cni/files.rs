//! Files that others read at any moment: whole, or not there.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Replaces a file at once. The draft beside it has a name that no container runtime reads.
pub(super) fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let draft = draft(path);
    // A draft of a process that died would keep its mode.
    remove(&draft)?;
    let written = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        file.write_all(content)?;
        // Exactly this, whatever the umask.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    written().inspect_err(|_| drop(fs::remove_file(&draft)))
}

/// The same, with nothing written when the file is so already. Returns whether it was not.
pub(super) fn ensure(path: &Path, content: &[u8], mode: u32) -> io::Result<bool> {
    if self::mode(path).is_ok_and(|found| found == mode) && fs::read(path).is_ok_and(|found| found == content) {
        return Ok(false);
    }
    write(path, content, mode).map(|()| true)
}

/// Missing files are no error.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The content of a file; `None` when there is none.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Permission bits.
pub(super) fn mode(path: &Path) -> io::Result<u32> {
    Ok(File::open(path)?.metadata()?.permissions().mode() & 0o7777)
}

fn draft(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".keelson-draft");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_once() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("10-x.conflist");
        assert!(ensure(&path, b"a", 0o600).expect("written"));
        assert!(!ensure(&path, b"a", 0o600).expect("as it is"));
        assert!(ensure(&path, b"a", 0o644).expect("mode"));
        assert!(ensure(&path, b"b", 0o644).expect("content"));
        assert_eq!((read(&path).expect("read"), mode(&path).expect("mode")), (Some(b"b".to_vec()), 0o644));
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1, "no draft stays");
        remove(&path).expect("removed");
        remove(&path).expect("is gone");
        assert_eq!(read(&path).expect("gone"), None);
    }
}
