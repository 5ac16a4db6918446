//! Enforcing what [`mesh_policy::authz`] decides: at the connection's start, and again whenever policy changes.

mod watch;

use mesh_policy::authz::{DenyReason, Outcome};

use crate::reason::{Failure, Reason};

pub use watch::{catch_up, watch};

/// The failure that an outcome amounts to, if it denies.
pub fn denied(outcome: &Outcome) -> Option<Failure> {
    let Outcome::Deny { reason, by } = outcome else { return None };
    let code = match reason {
        DenyReason::PolicyDeny => Reason::PolicyDeny,
        DenyReason::NoAllowMatched => Reason::NoAllowMatched,
        DenyReason::PolicyNotLoaded => Reason::PolicyNotLoaded,
    };
    Some(Failure::new(code, by.as_ref().map(|policy| format!("policy {policy}")).unwrap_or_default()))
}
