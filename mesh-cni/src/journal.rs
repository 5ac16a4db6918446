//! A line a pod in a file on the node, for people who look for one: standard output is the container runtime's.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Bytes after which the file begins anew; the one before is kept beside it.
const LONGEST: u64 = 1 << 20;

pub struct Journal(PathBuf);

impl Journal {
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Adds a line. A journal that can not be written is no reason to hold a pod.
    pub fn note(&self, line: &str) {
        let _ = self.write(line);
    }

    fn write(&self, line: &str) -> io::Result<()> {
        if fs::metadata(&self.0).is_ok_and(|found| found.len() > LONGEST) {
            fs::rename(&self.0, self.0.with_extension("log.old"))?;
        }
        let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.0)?;
        // One write: several pods start at a time.
        file.write_all(format!("{now} {}\n", line.replace(char::is_control, " ")).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_within_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cni.log");
        let journal = Journal::new(&path);
        journal.note("shop/page: captured\nforged");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.ends_with(" shop/page: captured forged\n"), "{text}");
        fs::write(&path, vec![b'x'; 2 << 20]).unwrap();
        journal.note("next");
        assert!(fs::read_to_string(&path).unwrap().ends_with(" next\n"));
        assert_eq!(fs::metadata(folder.path().join("cni.log.old")).unwrap().len(), 2 << 20);
        Journal::new(&folder.path().join("missing/cni.log")).note("nobody reads it");
    }
}
