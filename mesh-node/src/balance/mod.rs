//! The state behind one pod's choice of endpoints: who is ejected, who is new, how much is open, whose turn it is.
//!
//! The decisions are `mesh_policy::balance`'s. Here is what they remember, by source pod: a [`PodBalance`] belongs to one
//! pod, so that a pod that makes endpoints look bad, or uses its limits up, does so for itself alone. In it a [`Backend`] is
//! one service's port and subset, the unit to which a DestinationRule's limits and judgements apply (Envoy's cluster).
//!
//! One request does, in this order:
//!
//! ```text
//! let backend = pod.balance.backend(&key);                        // once
//! let _open = backend.try_request(policy, now)?;                  // Overflow: 503 UO
//! let mut picker = backend.candidates(pool, &query, now)?;        // NoEndpoint: 503 UH
//! picker.pick(…) → connect, send → backend.record(policy, uid, outcome, now)
//! if it is to be tried again { let _retry = backend.try_retry(policy, now)?; picker.pick_again(…) … }
//! ```
//!
//! Permits count back when they are dropped. No lock is held longer than one of these calls, and none while another is
//! taken. What belongs to services and endpoints that are gone is forgotten: of endpoints with the first request after
//! they left, of services with each new snapshot ([`forget`]); beyond [`MOST_BACKENDS`] those
//! without anything open are forgotten too.

mod backend;
mod forget;
mod limits;
mod pod;
mod show;
#[cfg(test)]
mod tests;

pub use backend::{Backend, BackendKey};
pub use forget::forget;
pub use limits::{Limited, Overflow, Permit};
pub use pod::{BackendReport, Counts, MOST_BACKENDS, PodBalance};
pub use show::show;
