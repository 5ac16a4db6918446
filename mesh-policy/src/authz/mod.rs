//! Whether a connection may reach a workload.
//!
//! [`decide`] joins the policies that apply to the destination into one [`Verdict`]; `l4` says what a single policy
//! matches. The order and the corner cases are those of ztunnel (`src/state.rs`, `src/rbac.rs`), because the same
//! `istio.security.Authorization` resources must mean the same here, with one exception that is stricter: a policy
//! that a workload names but that has not arrived denies, where ztunnel skips it.

mod engine;
mod l4;
#[cfg(test)]
mod tests;

pub use engine::{Connection, DenyReason, Outcome, Verdict, decide};
