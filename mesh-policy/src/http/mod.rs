//! HTTP requests as policy sees them: facts that were normalized once, where the request came in.
//!
//! Whoever serves a request makes its path with [`normalize_path`] and its host with [`authority`], refuses with 400 what
//! they refuse, and from then on shows the same bytes to route, policy and upstream. Nothing here decodes twice.

mod authority;
mod header_ops;
mod path;
mod request;
#[cfg(test)]
pub(crate) mod tests;

pub use authority::{Authority, BadAuthority, authority};
pub use header_ops::apply_header_ops;
pub use path::{BadPath, MAX_PATH, normalize_path};
pub use request::Request;
pub(crate) use request::bytes_match;
