//! Which node is calling.
//!
//! Every service is behind [`Guard`], which asks an [`Authenticator`] for the bearer token: of a folder of issued tokens
//! ([`Tokens`]), or of the cluster's service account tokens ([`Reviews`]). Nobody passes without one.

mod account;
mod authenticator;
mod cache;
mod claims;
mod guard;
mod review;
#[cfg(test)]
mod tests;
mod tokens;

pub use account::Account;
pub use authenticator::{Authenticator, Caller, caller};
pub use guard::Guard;
pub use review::{Refusal, Reviews};
pub use tokens::{TokenError, Tokens};
