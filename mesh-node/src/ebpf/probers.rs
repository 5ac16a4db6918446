//! Whose connections from the node's own namespace are probes.

use std::{fs, io, os::unix::fs::MetadataExt};

/// The machine's first PID namespace (`PROC_PID_INIT_INO` of the kernel).
const FIRST: u64 = 0xEFFF_FFFC;

/// By cgroup2 group, by process, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probers {
    /// Ids of groups: the inodes of their folders.
    pub cgroups: Vec<u64>,
    /// Process ids (of a process as a whole, not of its threads), in the namespace that the kernel side was opened with.
    pub processes: Vec<u32>,
}

/// The PID namespace whose numbers a node knows processes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidNamespace {
    /// The machine's.
    First,
    /// One inside of it, by the device and inode of its file.
    Nested { device: u64, inode: u64 },
}

impl PidNamespace {
    /// The one that this process is in.
    pub fn own() -> io::Result<Self> {
        let file = fs::metadata("/proc/self/ns/pid")?;
        let (device, inode) = (file.dev(), file.ino());
        Ok(if inode == FIRST { Self::First } else { Self::Nested { device, inode } })
    }
}
