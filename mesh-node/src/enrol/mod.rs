//! A pod joins and leaves: its namespace is opened, its listeners made inside, its traffic captured.
//!
//! [`agent`] is the one owner of that life cycle; [`service`] lets others ask for it over a unix socket; [`record`]
//! remembers it on disk, so that a node that restarts takes up what it had captured. [`pod`] is what the data path sees.
//!
//! On Kubernetes, [`cni`] installs the plugin that asks before a pod's processes start, [`running`] finds those that run
//! already, and [`kubelet`] whose probes pass. [`handover`] is how a new process takes over from one that runs.

pub mod agent;
pub mod cni;
pub mod handover;
pub mod kubelet;
pub mod listeners;
pub mod netns;
pub mod pod;
pub mod record;
pub mod routing;
pub mod running;
pub mod service;

pub use agent::{Agent, EnrolError};
pub use pod::{LocalPods, Pod};
