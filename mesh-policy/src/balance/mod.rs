//! Which endpoint of a service gets a connection or a request.
//!
//! A [`Pool`] is a service with its endpoints, part of the snapshot. The first [`Query`] of a kind builds a view of it:
//! who serves the port, has the subset's labels, is healthy enough and may be reached, in groups by how near they are to
//! the client; with consistent hashing, the tables too. From then on a choice costs a few comparisons and draws, whatever
//! the number of endpoints, and allocates nothing unless the client has endpoints ejected or warming up. A view lives as
//! long as the service, its endpoints and its DestinationRules are the same.
//!
//! [`Picker`] hands out endpoints for one request or connection, none twice until all were tried. The policies:
//!
//! | policy | choice |
//! |---|---|
//! | least request | of two drawn by weight the one with less in flight for its weight (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing") |
//! | round robin | in turn; with unequal weights along a low-discrepancy sequence, so that shares hold over short runs too |
//! | random | drawn by weight |
//! | ring hash, maglev | by the [`hash()`] of the request's key, stable while endpoints come and go (`table`) |
//! | passthrough | the endpoint whose address was dialled; by least request when it is the service's own address |
//!
//! **Groups.** Where nothing is ejected, the nearest group gets everything. As its endpoints are ejected the next ones take
//! over in proportion, as Envoy's priorities do (`spill`). Unready endpoints do not count at all: as with Istio's
//! defaults, they are not there.
//!
//! **Leaving.** An endpoint that is deleted, or no longer ready because it is being deleted, is absent from the next
//! snapshot, so that no request begun afterwards is given to it. Requests and connections that it has go on: nothing here
//! holds or breaks them. What was picked just before and fails to connect is retried on another endpoint.
//!
//! What one client knows of endpoints (ejections, warm-up, whose turn it is) is its [`Standing`], kept outside: see
//! [`outlier`] for the state machine and `mesh-node`'s `balance` for its owner.

mod hash;
mod locality;
pub mod outlier;
mod pick;
mod pool;
mod query;
mod spill;
mod table;
mod tried;
mod view;
mod warmup;

#[cfg(test)]
mod tests;

pub use hash::{hash, hash_address};
pub use pick::{InFlight, MAX_TRIES, Picker, Retry};
pub use pool::{NoEndpoint, Pool, PoolId};
pub use query::{Query, Standing};
pub use view::Member;
pub use warmup::share as warmup_share;
