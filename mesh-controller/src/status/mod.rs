//! What objects are told, in files beside them: `.status/keelson/<Kind>/<namespace>/<name>.yaml`.

mod desired;
#[cfg(test)]
mod tests;
mod writer;

pub use desired::{Desired, Told, desired};
pub use writer::Writer;
