//! What can go wrong with the kernel side, with the likely cause in the message.

use std::{io, path::PathBuf};

/// An error of [`super::Kernel`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EbpfError {
    /// There is no BPF file system and none could be mounted.
    #[error("no BPF file system at {path:?}: {}", privilege(source))]
    Bpffs {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The folder given as the cgroup2 root can not be opened.
    #[error("cgroup2 root {path:?} can not be opened")]
    Cgroup {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The folder given as the cgroup2 root is something else.
    #[error(
        "{path:?} is no cgroup2 hierarchy: name the folder where cgroup2 is mounted (on hybrid hosts /sys/fs/cgroup/unified)"
    )]
    NotCgroup2 { path: PathBuf },
    /// The kernel object can not be used as a whole.
    #[error("the kernel object was refused: is the kernel 6.1 or later, with BTF (CONFIG_DEBUG_INFO_BTF)?")]
    Object {
        #[source]
        source: Box<aya::EbpfError>,
    },
    /// The object and this program were not built from one source.
    #[error("the kernel object has no {kind} {name}: build both again from one source")]
    Missing { kind: &'static str, name: &'static str },
    /// A map could not be made.
    #[error("the kernel refused the map {map}: {}", privilege(source))]
    MapCreate {
        map: String,
        #[source]
        source: io::Error,
    },
    /// A pinned map is of another shape, although its layout has the same number.
    #[error(
        "the pinned map {map} has keys of {found_key} and values of {found_value} bytes instead of {key} and {value}: it is another \
         build's; uninstall that one first"
    )]
    MapDiffers { map: &'static str, found_key: u32, found_value: u32, key: u32, value: u32 },
    /// The verifier or the privilege check refused a program.
    #[error("the kernel refused the program {program}: {}", load_cause(source))]
    Load {
        program: &'static str,
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// A program was loaded and could not be attached.
    #[error("{program} can not be attached to {to}: {}", attach_cause(source))]
    Attach {
        program: &'static str,
        to: String,
        #[source]
        source: io::Error,
    },
    /// A pinned link did not take the new program.
    #[error("{program}'s link pinned at {path:?} did not take the new program")]
    Update {
        program: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A pin could not be made, read or removed.
    #[error("can not {doing} the pin {path:?}: {}", privilege(source))]
    Pin {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// An entry of a map could not be read or written.
    #[error("can not {doing} the map {map}: {}", element_cause(source))]
    Map {
        map: &'static str,
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    /// A pod that can not be captured as asked.
    #[error("pod {uid} can not be captured: {why}")]
    Unfit { uid: String, why: &'static str },
}

fn privilege(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "is CAP_SYS_ADMIN or CAP_BPF and CAP_NET_ADMIN missing?",
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => {
            "is the kernel older than 6.1, or built without CONFIG_BPF_SYSCALL?"
        }
        Some(libc::ENOMEM) => "is the memory cgroup's limit reached?",
        Some(libc::ENOSPC) => "is it full?",
        _ => "the system said no",
    }
}

fn load_cause(error: &aya::programs::ProgramError) -> &'static str {
    use aya::programs::ProgramError;
    match error {
        ProgramError::LoadError { io_error, verifier_log } => match io_error.raw_os_error() {
            Some(libc::EPERM) => "are CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN) missing?",
            _ if verifier_log.to_string().contains("unknown func") => {
                "it lacks a helper function; 6.1 is the oldest kernel that has them all"
            }
            _ if verifier_log.to_string().contains("invalid bpf_context access") => {
                "it lacks a context field; 6.1 is the oldest kernel that has them all"
            }
            _ => "is it older than 6.1?",
        },
        _ => "is it older than 6.1?",
    }
}

fn attach_cause(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            "is CAP_NET_ADMIN missing, or does an exclusive program sit at the cgroup root (`bpftool cgroup tree`)?"
        }
        Some(libc::E2BIG) => "too many programs are attached there",
        Some(libc::EBUSY) => "another mesh or load balancer has attached there",
        Some(libc::EINVAL) => "is the kernel older than 6.1?",
        _ => "the system said no",
    }
}

fn element_cause(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::E2BIG | libc::ENOSPC) => "is it full?",
        Some(libc::EOPNOTSUPP) => "is the socket no TCP listener?",
        Some(libc::EPERM) => "is CAP_BPF missing?",
        _ => "the system said no",
    }
}
