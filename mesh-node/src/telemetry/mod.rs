//! What the node tells: Istio's TCP metrics, the access log, and the table of open connections.
//!
//! A connection is described once, as a [`Flow`]; opening it in [`Telemetry`] gives a [`Tracked`] guard that counts
//! its bytes and, when it ends or is dropped, its end. Nothing can be counted open for ever.

mod connections;
mod flow;
mod metrics;

pub use connections::{ConnectionRow, Revocable, Telemetry, Tracked};
pub use flow::{Direction, Flow, Party, Security, Transport};
pub use metrics::Metrics;
