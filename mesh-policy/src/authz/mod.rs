//! Whether a connection or a request may reach a workload.
//!
//! [`decide`] and [`decide_request`] join the policies that apply to the destination into one [`Verdict`]; `matching`
//! says what a single policy matches. The order and the corner cases are those of ztunnel (`src/state.rs`, `src/rbac.rs`), because the same
//! `istio.security.Authorization` resources must mean the same here, with one exception that is stricter: a policy
//! that a workload names but that has not arrived denies, where ztunnel skips it.

mod engine;
mod matching;
mod request;
#[cfg(test)]
mod tests;

pub use engine::{Connection, DecidedBy, DenyReason, Outcome, Verdict, decide, decide_request, needs_request};
