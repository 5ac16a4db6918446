//! A captured pod dials: accept, find out where to, plan, connect, carry.

mod accept;
mod connection;
mod dial;
pub mod names;
mod routes;

pub use accept::accept;
pub(crate) use accept::accept_each;
pub use connection::{Limits, Outbound};
pub(crate) use connection::{broken, reason_of, seen_of};
pub use dial::Dialer;
