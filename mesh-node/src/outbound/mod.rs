//! A captured pod dials: accept, find out where to, plan, connect, carry.

mod accept;
mod carry;
mod connect;
mod connection;
mod dial;
mod hop;
pub mod names;
mod routes;

pub use accept::accept;
pub(crate) use accept::accept_each;
pub(crate) use carry::broken;
pub(crate) use connect::{reason_of, seen_of};
pub use connection::{Limits, Outbound};
pub use dial::Dialer;
