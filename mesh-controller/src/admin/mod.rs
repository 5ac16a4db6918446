//! Liveness, readiness and metrics for everybody over plain HTTP, and dumps for whoever is on the loopback device.

mod dump;
mod readiness;
mod serve;

pub use dump::dump;
pub use readiness::Readiness;
pub use serve::{Admin, serve};
