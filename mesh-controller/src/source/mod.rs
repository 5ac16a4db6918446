//! Where objects come from.
//!
//! A source gives documents, whole states or changes; [`Admission`] turns them into objects and keeps the last good version
//! of each.

mod admission;
#[cfg(test)]
mod changes;
mod folder;
pub mod kube;
mod news;
mod scan;
#[cfg(test)]
mod tests;

pub use admission::{Admission, Effect, HELD_FILE, Standing, Touched};
pub use folder::{Folder, FolderError};
pub use news::{Changed, Found, News};
pub use scan::{FileError, FileProblem, Scanner, Sources};
