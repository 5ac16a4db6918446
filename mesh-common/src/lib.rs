//! What the kernel programs and the node agree on: map keys and values, the decisions that the
//! programs carry out, ports, and the names under which everything is pinned.
//!
//! No standard library, no dependency and no I/O: the same code runs in the kernel and in host tests.
//!
//! Everything that a program calls is `inline(always)`: a kernel program has one stack of 512 bytes, and the verifier
//! follows pointers into a call less well than through inlined code.

#![no_std]
#![allow(clippy::inline_always, reason = "see above")]

#[cfg(test)]
extern crate std;

pub mod kernel;
pub mod names;
pub mod ports;
