//! A captured pod is dialled: verify who it is, judge, deliver to the application with the client's own address.

mod accept;
mod connection;
mod deliver;
pub mod ports;

pub use accept::{Arrival, accept};
pub use connection::Inbound;
pub use deliver::{Delivered, Deliverer};
