//! Between the wire and [`mesh_policy::model`].
//!
//! From the wire everything is judged: an unknown enum value, an address of the wrong length, a prefix or port out of
//! range or a feature that nodes do not have refuses the resource and names the field, so that the stream can answer
//! with a NACK. A resource is never taken in part: what could not be understood might be what protects someone.
//!
//! To the wire nothing can fail.

mod address;
mod document;
mod error;
mod extension;
mod mesh;
mod network;
mod piece;
mod policy;
mod service;
#[cfg(test)]
mod tests;
mod workload;

pub use address::AddressResource;
pub use error::{Cause, ConvertError};
pub use mesh::MESH_NAME;
pub use network::{service_aliases, workload_aliases};
pub use piece::{Piece, PieceError, PieceKey, archive, unarchive};
