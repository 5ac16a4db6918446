//! The kernel object on other kernels than this machine's: Debian's 6.1, the oldest that is supported, and 6.12, booted
//! under emulation with a file system in memory that holds little more than the smoke test (`tests/kernel-smoke`).

mod boot;
mod check;
mod fetch;
mod initramfs;

pub(crate) use check::check;
