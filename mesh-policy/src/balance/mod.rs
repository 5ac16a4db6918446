//! Which endpoint of a service gets a connection.
//!
//! A [`Pool`] is a service with its endpoints, part of the snapshot. Its first use on a port builds the index of that
//! port: who serves it, healthy enough for the service, grouped by the scopes of its routing preference. From
//! then on a pick costs two random draws, whatever the number of endpoints, and allocates nothing.
//!
//! [`Picker`] hands out endpoints without repeating one, so that a caller may try another before its client sees a
//! failure: within the best group the one with fewer connections in flight for its weight, of two drawn by weight
//! (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing"); in failover then the next group.

mod pick;
mod pool;
#[cfg(test)]
mod tests;

pub use pick::{InFlight, MAX_TRIES, Picker};
pub use pool::{Member, NoEndpoint, Pool};
