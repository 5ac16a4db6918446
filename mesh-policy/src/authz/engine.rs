//! The order of policies: DENY before ALLOW, no ALLOW at all allows, and nothing is judged on half of the policies.

use std::{fmt, net::IpAddr};

use super::matching::{Facts, matching_rule};
use crate::{
    http::Request,
    model::{Action, Authorization, Identity, PolicyKey, RequestMatch, Snapshot, Workload},
};

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
    Allow { by: Option<DecidedBy> },
    /// `by` is None where ALLOW policies apply and none of them matched.
    Deny { reason: DenyReason, by: Option<DecidedBy> },
}

impl Outcome {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }

    /// `%RESPONSE_CODE_DETAILS%` of a refusal, as Envoy and Istio write it:
    /// `rbac_access_denied_matched_policy[ns[shop]-policy[no-writes]-rule[0]]`, or `[none]` where no ALLOW policy matched.
    pub fn details(&self) -> Option<String> {
        let Self::Deny { reason: _, by } = self else { return None };
        let by = by.as_ref().map_or_else(|| "none".to_owned(), DecidedBy::details);
        Some(format!("rbac_access_denied_matched_policy[{by}]"))
    }
}

/// The policy that made a decision. Writes itself as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DecidedBy {
    pub policy: PolicyKey,
    /// The first of its rules that matched, from 0; None: the policy has not arrived.
    pub rule: Option<usize>,
}

impl DecidedBy {
    /// As Istio names a policy's rule in Envoy's configuration.
    fn details(&self) -> String {
        let PolicyKey { namespace, name } = &self.policy;
        match self.rule {
            Some(rule) => format!("ns[{namespace}]-policy[{name}]-rule[{rule}]"),
            None => format!("ns[{namespace}]-policy[{name}]"),
        }
    }
}

impl fmt::Display for DecidedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.policy.fmt(f)
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
/// Dry-run policies change [`Verdict::dry_run`] only. What a policy says of requests counts as
/// [`RequestMatch`] has it where there is none: where HTTP is spoken, and [`needs_request`] says so, each request is
/// judged by [`decide_request`] instead.
pub fn decide(snapshot: &Snapshot, destination: &Workload, connection: &Connection<'_>) -> Verdict {
    decide_on(snapshot, destination, &Facts::of(connection, None))
}

/// Judges a request to a workload, with the connection that it came by, in the same order.
pub fn decide_request(
    snapshot: &Snapshot,
    destination: &Workload,
    connection: &Connection<'_>,
    request: &Request<'_>,
) -> Verdict {
    decide_on(snapshot, destination, &Facts::of(connection, Some(request)))
}

/// Whether any policy that applies to a workload, dry-run ones included, speaks of requests, so that a connection alone
/// does not say all.
pub fn needs_request(snapshot: &Snapshot, destination: &Workload) -> bool {
    let mut clauses = snapshot.policies_of(destination).flat_map(|policy| &policy.rules).flat_map(|rule| &rule.clauses);
    clauses.any(|clause| clause.matches.iter().any(|one| one.request != RequestMatch::default()))
}

fn decide_on(snapshot: &Snapshot, destination: &Workload, facts: &Facts<'_>) -> Verdict {
    let outcome = judge(snapshot, destination, facts, |policy| !policy.dry_run);
    let rehearses = snapshot.policies_of(destination).any(|policy| policy.dry_run);
    let dry_run = rehearses.then(|| judge(snapshot, destination, facts, |_| true));
    Verdict { outcome, dry_run }
}

fn judge(snapshot: &Snapshot, destination: &Workload, facts: &Facts<'_>, counts: impl Fn(&Authorization) -> bool) -> Outcome {
    let of_action = |action: Action| {
        let counts = &counts;
        snapshot.policies_of(destination).filter(move |policy| policy.action == action && counts(policy))
    };
    let decides = |policy: &Authorization| {
        let rule = matching_rule(policy, facts)?;
        Some(DecidedBy { policy: policy.key.clone(), rule: Some(rule) })
    };
    if let Some(by) = of_action(Action::Deny).find_map(|policy| decides(policy)) {
        return Outcome::Deny { reason: DenyReason::PolicyDeny, by: Some(by) };
    }
    if let Some(missing) = snapshot.missing_policy(destination) {
        let by = DecidedBy { policy: missing.clone(), rule: None };
        return Outcome::Deny { reason: DenyReason::PolicyNotLoaded, by: Some(by) };
    }
    let mut allows = of_action(Action::Allow).peekable();
    if allows.peek().is_none() {
        return Outcome::Allow { by: None };
    }
    match allows.find_map(|policy| decides(policy)) {
        Some(by) => Outcome::Allow { by: Some(by) },
        None => Outcome::Deny { reason: DenyReason::NoAllowMatched, by: None },
    }
}
