//! Objects that would be refused are not even taken: `POST /validate`, an AdmissionReview (`admission.k8s.io/v1`), over HTTPS with a
//! certificate of our own authority.
//!
//! The rules are those of [`mesh_config::validate::admit`], as in a folder and in `meshctl analyze`. Every replica serves;
//! whoever leads tells the API server which roots to trust ([`Trust`]).

mod judge;
mod serve;
#[cfg(test)]
mod tests;
mod trust;

pub use judge::{Answer, judge};
pub use serve::serve;
pub use trust::Trust;
