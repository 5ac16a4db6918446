//! `cargo xtask test`: the whole of CI, the same on a developer's machine.

mod command;
mod edges;
mod interrupt;
mod kubernetes;
mod lints;
mod privilege;

pub(crate) use command::{Arguments, run};
