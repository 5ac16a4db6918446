//! `cargo xtask image`: container images of our own programs, made without a container engine.
//!
//! An image is one layer with one program that needs no library, written as a tar file in the layout of the OCI image
//! specification (with the manifest that older engines read beside it). The same files make the same bytes: times are zero,
//! owners are root, the order is that of the paths.

mod build;
mod command;
mod oci;
pub(crate) mod pause;
mod programs;
mod tar;

pub(crate) use command::{Arguments, TAG, load, run, write};
pub(crate) use {
    build::Profile,
    oci::{File, Image},
    programs::{HUB, ours, reference},
};
