//! Connections to servers of HTTP: made when they are needed, kept while they may be needed again.
//!
//! A [`Pool`] belongs to one pod on one worker, or to one connection at the destination, so that nobody's requests ever meet
//! another's. With HTTP/1 a connection carries one request at a time, and the one used last is used first; with HTTP/2
//! requests share connections as far as the server lets them.

mod connection;
mod pool;
#[cfg(test)]
mod tests;

pub use connection::{SendError, SendErrorKind, Version};
pub use pool::{Lease, Pool, Settings, Terms};
