//! Tar files as POSIX has them (pax Interchange Format's base, `ustar`), with nothing in them that could differ between two
//! runs: time zero, owner root.

use anyhow::{Result, ensure};

const BLOCK: usize = 512;

/// A tar file that is being written into memory.
#[derive(Debug, Default)]
pub(super) struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    /// A folder; `path` is relative and has no slash at its end.
    pub(super) fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        self.header(&format!("{path}/"), mode, 0, b'5')
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.header(path, mode, content.len(), b'0')?;
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        Ok(())
    }

    /// The whole file: two empty blocks end it.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    fn header(&mut self, path: &str, mode: u32, size: usize, kind: u8) -> Result<()> {
        ensure!(path.len() <= 100 && !path.starts_with('/'), "{path:?} does not fit into a plain tar file");
        ensure!(size < 1 << 33, "{path} is too large for a plain tar file: {size} bytes");
        let mut header = [0; BLOCK];
        let mut field = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        field(0, path);
        field(100, &format!("{mode:07o}"));
        field(108, "0000000"); // the owner's number
        field(116, "0000000"); // the group's
        field(124, &format!("{size:011o}"));
        field(136, "00000000000"); // the time
        // The checksum counts its own field as blanks.
        field(148, "        ");
        field(257, "ustar\x0000");
        header[156] = kind;
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;
    use crate::workspace;

    #[test]
    fn others_read_what_is_written() {
        let mut tar = Tar::default();
        tar.folder("usr", 0o755).unwrap();
        tar.file("usr/text", 0o640, b"hello").unwrap();
        tar.file("usr/empty", 0o755, b"").unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("x.tar"), tar.finish()).unwrap();
        let list = |flags: &str| {
            workspace::output(Command::new("tar").current_dir(folder.path()).env("TZ", "UTC").args([flags, "x.tar"])).unwrap()
        };
        let listed = list("--numeric-owner -tvf".split(' ').next_back().unwrap());
        assert_eq!(listed.lines().count(), 3, "{listed}");
        assert!(listed.contains("-rw-r-----") && listed.contains("1970-01-01 00:00 usr/text"), "{listed}");
        list("-xf");
        assert_eq!(fs::read(folder.path().join("usr/text")).unwrap(), b"hello");
    }

    #[test]
    fn long_paths_are_refused() {
        assert!(Tar::default().file(&"x".repeat(101), 0o644, b"").is_err());
        assert!(Tar::default().file("/absolute", 0o644, b"").is_err());
    }
}
