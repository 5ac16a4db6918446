//! Objects from a Kubernetes API server.
//!
//! ```text
//! one watch a kind (follow) ─┐
//! which kinds there are (served) ─┼→ gather: a short quiet time → News → reconciler
//! is istio-cni installed (neighbour) ─┘
//! ```
//!
//! Memory: an object is cut down to what is read of it as it is decoded ([`trim`]); a list comes in pages. Failure: a watch
//! that breaks goes on where it was; one that can not (410) lists again, and what is gone meanwhile is taken out when the list is complete.
//! What can not be read at all stays as it was and is named by [`Health`]. Nothing is published before every kind that the
//! server has was listed once.

mod client;
mod cluster;
mod follow;
mod gather;
mod health;
mod kinds;
mod names;
mod neighbour;
mod served;
#[cfg(test)]
mod tests;
mod trim;
mod watched;

pub use client::{ConnectError, connect};
pub use cluster::Cluster;
pub use health::{Health, Trouble};
