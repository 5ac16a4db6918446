//! A pod joins and leaves: its namespace is opened, its listeners made inside, its traffic captured.
//!
//! [`agent`] is the one owner of that life cycle; [`service`] lets others ask for it over a unix socket; [`record`]
//! remembers it on disk, so that a node that restarts takes up what it had captured. [`pod`] is what the data path sees.

pub mod agent;
pub mod listeners;
pub mod netns;
pub mod pod;
pub mod record;
pub mod routing;
pub mod service;

pub use agent::{Agent, EnrolError};
pub use pod::{LocalPods, Pod};
