//! Readiness, metrics and dumps over plain HTTP, on loopback.

mod dump;
mod serve;

pub use dump::dump;
pub use serve::{Admin, serve};
