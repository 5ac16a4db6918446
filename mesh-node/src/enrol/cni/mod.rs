//! The CNI plugin on this node: copied to the host, chained into the pod network's configuration, kept there, and taken away
//! again without a trace.
//!
//! [`chain`] is what is done to a configuration, as a function of its text. [`install`] does it on disk. [`keep`] looks every
//! second whether it still stands: a pod network's own agent writes its configuration anew whenever it likes. A node that ends
//! leaves all of it in place, so that pods which start meanwhile wait for the next one.

pub mod chain;
pub mod files;
pub mod install;
pub mod keep;

pub use install::{CniError, Installer, Settings};
pub use keep::{Standing, keep};
