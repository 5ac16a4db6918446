//! Where objects come from.
//!
//! A source gives documents; [`Admission`] turns them into objects and keeps the last good version of each.

mod admission;
mod folder;
mod scan;
#[cfg(test)]
mod tests;

pub use admission::{Admission, HELD_FILE, Standing};
pub use folder::{Folder, FolderError};
pub use scan::{FileError, FileProblem, Scanner, Sources};
