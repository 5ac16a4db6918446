//! Who may ask, who leads, and what is written into the cluster: controllers as processes, a real API server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod callers;
mod cluster;
mod election;
mod program;
mod roots;
mod statuses;
mod surroundings;
mod wait;
mod webhook;
