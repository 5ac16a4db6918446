//! The certificate authority of the mesh.
//!
//! A root of our own (P-256, ten years), or the four files of Istio's `cacerts`: in the state folder, or in secrets of the
//! cluster ([`Secrets`]), where [`Roots`] tells every namespace what is trusted. A certificate carries the identity that was asked for and the key of the request, nothing else of the request.

mod authority;
mod keeper;
mod plugged;
mod roots;
mod secrets;
mod service;
#[cfg(test)]
mod tests;

pub use authority::{Authority, AuthorityError, Serving};
pub use keeper::{Keeper, ROOT_FILE, RootsError, prepare_roots};
pub use roots::Roots;
pub use secrets::{Secrets, SecretsError};
pub use service::Certificates;
