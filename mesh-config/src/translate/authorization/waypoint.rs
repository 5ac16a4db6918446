//! What the principal of a waypoint stands for.
//!
//! In ambient a pod behind a waypoint sees the waypoint's identity, and policies on pods allow that. Here the client's own
//! identity arrives, and what the waypoint would have judged is judged at the pod. So a rule that names a bound waypoint is
//! read as if the waypoint asked, and what is left of it is joined with what the policies on targets admit: the clients
//! that the waypoint would let through. Where no such policy allows anything in particular, it lets everybody through who
//! has an identity.
//!
//! Only a waypoint that is named by itself counts: `principals: ["*"]` or `namespaces: [shop]` stay what they say of the
//! client. The rule itself stays, too: somebody may run the waypoint's account.

use std::collections::BTreeSet;

use mesh_policy::model::{Clause, Match, Mesh, PolicyKey, Rule, StringMatch};

use super::{super::rule::Effect, WaypointName};

/// What stands before a workload, and the policies on targets that allow something there.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stand {
    pub(super) waypoints: BTreeSet<WaypointName>,
    pub(super) admitting: BTreeSet<PolicyKey>,
}

impl Stand {
    /// The same for the same content, other for other content: part of a policy's name (FNV-1a).
    pub(super) fn fingerprint(&self) -> u64 {
        let Self { waypoints, admitting } = self;
        let waypoints = waypoints.iter().map(|waypoint| format!("{}/{}", waypoint.namespace, waypoint.name));
        let texts: Vec<String> = waypoints.chain(admitting.iter().map(ToString::to_string)).collect();
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        texts.join(" ").bytes().fold(0xcbf2_9ce4_8422_2325, step)
    }
}

/// The identity of a waypoint: its account has its name.
#[derive(Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) waypoint: &'a WaypointName,
    pub(super) mesh: &'a Mesh,
}

impl Caller<'_> {
    /// Whether a rule names it by itself.
    pub(super) fn is_named_in(self, rule: &Rule) -> bool {
        let mut matches = rule.clauses.iter().flat_map(|clause| &clause.matches);
        matches.any(|one| {
            let accounts = one.service_accounts.iter().chain(&one.not_service_accounts);
            let mut principals = one.principals.iter().chain(&one.not_principals);
            accounts.into_iter().any(|account| self.has_account(&account.namespace, &account.name))
                || principals.any(|text| matches!(text, StringMatch::Exact(_)) && self.is(text))
        })
    }

    /// Whether a rule is about everybody but it.
    pub(super) fn is_left_out_of(self, rule: &Rule) -> bool {
        rule.clauses.iter().flat_map(|clause| &clause.matches).any(|one| self.is_left_out(one))
    }

    fn is_left_out(self, one: &Match) -> bool {
        let named = |text: &StringMatch| matches!(text, StringMatch::Exact(_)) && self.is(text);
        one.not_principals.iter().any(named)
            || one.not_service_accounts.iter().any(|account| self.has_account(&account.namespace, &account.name))
    }

    /// The rule as it is where the workload has this stand; `admitted` are the rules of the policies that admit, None
    /// where there is no such policy.
    pub(super) fn expanded(self, rule: &Rule, effect: Effect, admitted: Option<&[Rule]>) -> Vec<Rule> {
        let Some(rest) = self.asking(rule, effect) else {
            // A rule that leaves the waypoint out leaves out everybody whom it lets through.
            let denied = effect == Effect::Deny && admitted.is_none();
            return vec![if denied { self.without_its_clients(rule) } else { rule.clone() }];
        };
        let with = |clauses: &[Clause]| Rule { clauses: [&rest.clauses, clauses].concat() };
        let everybody = Clause { matches: vec![Match { principals: vec![StringMatch::Presence], ..Match::default() }] };
        let mut rules = vec![rule.clone()];
        match (effect, admitted) {
            (Effect::Allow, Some(admitted)) => rules.extend(admitted.iter().map(|rule| with(&rule.clauses))),
            // Whom it does not admit it refuses: denying everybody denies no more.
            (Effect::Allow, None) | (Effect::Deny, _) => rules.push(with(&[everybody])),
        }
        rules
    }

    /// What is left of a rule when the waypoint asks; None: it does not match.
    fn asking(self, rule: &Rule, effect: Effect) -> Option<Rule> {
        let mut clauses = Vec::new();
        for clause in &rule.clauses {
            if clause.matches.is_empty() {
                continue;
            }
            let matches: Vec<Match> = clause.matches.iter().filter_map(|one| self.rest(one, effect)).collect();
            if matches.is_empty() {
                return None;
            }
            if !matches.contains(&Match::default()) {
                clauses.push(Clause { matches });
            }
        }
        Some(Rule { clauses })
    }

    /// What a match says of anything but who asks.
    fn rest(self, one: &Match, effect: Effect) -> Option<Match> {
        let Match {
            namespaces,
            not_namespaces,
            service_accounts,
            not_service_accounts,
            principals,
            not_principals,
            source_ips,
            not_source_ips,
            destination_ips,
            not_destination_ips,
            destination_ports,
            not_destination_ports,
            request,
        } = one;
        let asks = *one != Match::default()
            && holds(namespaces, not_namespaces, |text| text_is(text, &self.waypoint.namespace))
            && holds(service_accounts, not_service_accounts, |account| self.has_account(&account.namespace, &account.name))
            && holds(principals, not_principals, |text| self.is(text));
        // Whence a waypoint would have connected nobody knows: a DENY does not depend on it.
        let known = effect == Effect::Allow;
        let addresses = |values: &[mesh_policy::model::IpMatch]| if known { values.to_vec() } else { Vec::new() };
        asks.then(|| Match {
            source_ips: addresses(source_ips),
            not_source_ips: addresses(not_source_ips),
            destination_ips: destination_ips.clone(),
            not_destination_ips: not_destination_ips.clone(),
            destination_ports: destination_ports.clone(),
            not_destination_ports: not_destination_ports.clone(),
            request: request.clone(),
            ..Match::default()
        })
    }

    /// For a waypoint that lets everybody through: who is not the waypoint has no identity.
    fn without_its_clients(self, rule: &Rule) -> Rule {
        let narrowed = |one: &Match| {
            let left_out = self.is_left_out(one);
            let mut one = one.clone();
            if left_out {
                one.not_principals.push(StringMatch::Presence);
            }
            one
        };
        let clause = |clause: &Clause| Clause { matches: clause.matches.iter().map(narrowed).collect() };
        Rule { clauses: rule.clauses.iter().map(clause).collect() }
    }

    fn has_account(self, namespace: &str, name: &str) -> bool {
        self.waypoint.namespace == namespace && self.waypoint.name == name
    }

    /// In any trust domain that is ours.
    fn is(self, text: &StringMatch) -> bool {
        let WaypointName { namespace, name } = self.waypoint;
        let mut domains = std::iter::once(&self.mesh.trust_domain).chain(&self.mesh.trust_domain_aliases);
        domains.any(|domain| text_is(text, &format!("{domain}/ns/{namespace}/sa/{name}")))
    }
}

/// Any of the values if there are some, and none of the others.
fn holds<T>(values: &[T], not_values: &[T], is: impl Fn(&T) -> bool) -> bool {
    (values.is_empty() || values.iter().any(&is)) && !not_values.iter().any(&is)
}

fn text_is(text: &StringMatch, value: &str) -> bool {
    match text {
        StringMatch::Exact(exact) => **exact == *value,
        StringMatch::Prefix(prefix) => value.starts_with(&**prefix),
        StringMatch::Suffix(suffix) => value.ends_with(&**suffix),
        StringMatch::Presence => true,
    }
}
