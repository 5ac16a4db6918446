//! Status on the API server: `.status` of Istio's and the Gateway API's objects, a condition and an event on pods that cannot be
//! taken in.
//!
//! Only what differs is written, by whoever leads. An object is read again before it is written, and a write goes with the
//! version that was read. What others have written is kept: conditions of other types, parents of other controllers.

mod form;
mod pods;
mod queue;
#[cfg(test)]
mod tests;
mod writer;

pub(super) use form::Form;
pub use pods::POD_CONDITION;
pub use writer::Writer;
