//! What policy means: the model and every pure decision over it.
//!
//! No I/O, no clock, no tokio, no Kubernetes: a function here takes a [`model::Snapshot`] and facts, and returns
//! a decision that someone else carries out.

pub mod authz;
pub mod balance;
pub mod binding;
pub mod destination;
pub mod explain;
pub mod expression;
pub mod http;
pub mod model;
pub mod outside;
pub mod routing;

#[cfg(test)]
mod fixtures;
