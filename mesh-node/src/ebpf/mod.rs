//! The kernel side: loads the programs, pins maps and links, enrols pods. Nothing else touches maps.
//!
//! Everything is pinned in `<bpffs>/keelson/<instance>/v<layout>/` and outlives the process: without a
//! node, captured connections are refused, never passed. A node that starts adopts what is pinned.

mod error;
mod kernel;
mod marks;
mod order;
mod pins;
mod pods;
mod probers;
mod sys;
mod table;

#[cfg(test)]
mod tests;

pub use error::EbpfError;
pub use kernel::Kernel;
pub use marks::{Exempt, SocketMarks};
pub use order::{AttachPoint, Owner, ProgramAt, foreign_ahead};
pub use pins::{cgroup2_in, cgroup2_root};
pub use pods::{AdoptedPod, Bounds, MapEntries, PodCapture, uid_hash};
pub use probers::{PidNamespace, Probers};
