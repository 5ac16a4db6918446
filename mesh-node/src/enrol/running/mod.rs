//! Pods that run already: the controller says which of this node's pods belong to the mesh, and they join or leave without a
//! restart.
//!
//! [`plan`] decides, [`processes`] finds a pod's network namespace, [`follow`] carries it out and tries again what fails.

pub mod failures;
pub mod follow;
pub mod plan;
pub mod processes;

pub use failures::Failures;
pub use follow::Follower;
pub use processes::Processes;
