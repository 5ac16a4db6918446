//! What tests against a Kubernetes start from: the cluster of this run, its API server, programs of ours beside it, the shop.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod api;
mod cluster;
mod controller;
mod metrics;
mod shop;

pub use api::{ApiServer, DEADLINE, eventually, program};
pub use cluster::{Cluster, Node};
pub use controller::{Controller, Published};
pub use metrics::{Filter, Metrics};
pub use shop::{Asked, Shop};
