//! What objects are told: in files beside them (`.status/keelson/<Kind>/<namespace>/<name>.yaml`), or in their own status on
//! the API server ([`api`]). Both write the same [`Desired`].

pub mod api;
mod desired;
mod files;
#[cfg(test)]
mod tests;

pub use desired::{Desired, ObjectStatus, PodNews, PodsTold, Told, desired};
pub use files::Writer;
