//! The order of policies: DENY before ALLOW, no ALLOW at all allows, and nothing is judged on half of the policies.

use std::{fmt, net::IpAddr};

use super::l4::{self, Facts};
use crate::model::{Action, Authorization, Identity, PolicyKey, Snapshot, Workload};

/// What the transport knows of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// From a certificate or an enrolled namespace, never from an address. None: plaintext.
    pub source_identity: Option<&'a Identity>,
    pub source_ip: IpAddr,
    pub destination_ip: IpAddr,
    /// The port at the workload, not at the service.
    pub destination_port: u16,
}

/// What is to happen, and what would if the dry-run policies were enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: Outcome,
    /// The outcome if the dry-run policies were enforced beside the others; None when no dry-run policy applies.
    pub dry_run: Option<Outcome>,
}

impl Verdict {
    pub fn is_allowed(&self) -> bool {
        self.outcome.is_allowed()
    }
}

/// One side of the decision, with the policy that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `by` is None where no ALLOW policy applies.
    Allow { by: Option<PolicyKey> },
    /// `by` is None where ALLOW policies apply and none of them matched.
    Deny { reason: DenyReason, by: Option<PolicyKey> },
}

impl Outcome {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }
}

/// Why a connection is denied. The code is stable: logs, metrics and the command line show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// A DENY policy matched.
    PolicyDeny,
    /// ALLOW policies apply and none matched.
    NoAllowMatched,
    /// The workload names a policy that has not arrived. The only one that passes by itself.
    PolicyNotLoaded,
}

impl DenyReason {
    pub fn code(self) -> &'static str {
        match self {
            Self::PolicyDeny => "POLICY_DENY",
            Self::NoAllowMatched => "NO_ALLOW_MATCHED",
            Self::PolicyNotLoaded => "POLICY_NOT_LOADED",
        }
    }
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Judges a connection to a workload by every policy that applies to the workload.
///
/// 1. a DENY policy matches: denied;
/// 2. a policy that the workload names is missing: denied, for it might have been a DENY;
/// 3. no ALLOW policy applies: allowed;
/// 4. an ALLOW policy matches: allowed;
/// 5. denied.
///
/// Dry-run policies change [`Verdict::dry_run`] only.
pub fn decide(snapshot: &Snapshot, destination: &Workload, connection: &Connection<'_>) -> Verdict {
    let facts = Facts::of(connection);
    let outcome = judge(snapshot, destination, &facts, |policy| !policy.dry_run);
    let rehearses = snapshot.policies_of(destination).any(|policy| policy.dry_run);
    let dry_run = rehearses.then(|| judge(snapshot, destination, &facts, |_| true));
    Verdict { outcome, dry_run }
}

fn judge(snapshot: &Snapshot, destination: &Workload, facts: &Facts<'_>, counts: impl Fn(&Authorization) -> bool) -> Outcome {
    let of_action = |action: Action| {
        let counts = &counts;
        snapshot.policies_of(destination).filter(move |policy| policy.action == action && counts(policy))
    };
    if let Some(policy) = of_action(Action::Deny).find(|policy| l4::matches(policy, facts)) {
        return Outcome::Deny { reason: DenyReason::PolicyDeny, by: Some(policy.key.clone()) };
    }
    if let Some(missing) = snapshot.missing_policy(destination) {
        return Outcome::Deny { reason: DenyReason::PolicyNotLoaded, by: Some(missing.clone()) };
    }
    let mut allows = of_action(Action::Allow).peekable();
    if allows.peek().is_none() {
        return Outcome::Allow { by: None };
    }
    match allows.find(|policy| l4::matches(policy, facts)) {
        Some(policy) => Outcome::Allow { by: Some(policy.key.clone()) },
        None => Outcome::Deny { reason: DenyReason::NoAllowMatched, by: None },
    }
}
