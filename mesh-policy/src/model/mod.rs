//! Workloads, services, policies and identities as the data path understands them, whatever they came from.

mod identity;

pub use identity::{Identity, ParseIdentityError, TrustDomain};
