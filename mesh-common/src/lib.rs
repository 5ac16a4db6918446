//! What the kernel programs and the node agree on: map keys and values, the decisions that the
//! programs carry out, ports, and the names under which everything is pinned.
//!
//! No standard library, no dependency and no I/O: the same code runs in the kernel and in host tests.

#![no_std]

#[cfg(test)]
extern crate std;

pub mod kernel;
pub mod names;
pub mod ports;
