//! The whole controller in one process: a folder of objects, real TLS, nodes that speak gRPC.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod certificates;
mod client;
mod configuration;
mod reports;
