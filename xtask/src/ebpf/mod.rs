//! `cargo xtask build-ebpf`: the kernel programs, compiled, linked and stripped into one object file.
//!
//! They are not built by a build script of `mesh-node`: that would force the bootstrap flag and a linker on everybody who
//! only wants to read the rest. The object is cached by content, so that an unchanged tree costs a fraction of a second.

mod build;
mod command;
mod fingerprint;
mod reproduce;
mod strip;
mod toolchain;

pub(crate) use command::{Arguments, run};
pub(crate) use {
    build::{clippy, object},
    reproduce::check as check_reproducible,
};
