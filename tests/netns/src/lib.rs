//! What the tests over namespaces share: a meshed laboratory on a folder that the test writes, asking from inside pods, and
//! looking at what the nodes say.
//!
//! Every test drives the real programs: controller, node proxies, kernel object. Whatever a test asks from a pod runs in the
//! pod's cgroup and namespace, so that the capture sees it; [`harness::in_netns`] is the namespace alone, which the capture does
//! not see: what a pod's neighbour on the wire could send.
//!
//! Reading order: [`Mesh`], [`manifest`], [`Held`] (connections that stay open), [`wire`] (what was recorded), [`attacker`]
//! (whoever speaks to a pod without being one).
#![allow(clippy::needless_pass_by_value, reason = "a target is written as a literal or an address, whichever is at hand")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

pub mod attacker;
mod curl;
mod held;
pub mod manifest;
mod mesh;
mod tally;
pub mod wire;

pub use crate::{
    held::Held,
    mesh::{Mesh, Options, PATIENCE},
    tally::Tally,
};

/// One thing to look at in a mesh that stands, by its name.
pub type Check = (&'static str, fn(&Mesh));
