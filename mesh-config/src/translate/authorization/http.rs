//! Where conditions on requests meet traffic that may not be HTTP.

use std::collections::BTreeSet;

use mesh_policy::model::{RequestMatch, Rule, ServiceKey};

use super::{
    super::{rule::Effect, service::Services, workload::Draft},
    Context, Written,
};
use crate::status::{Code, Level, Message};

/// So many ports are named in a message.
const NAMED: usize = 4;

/// A port of a service that is not declared HTTP, and where the workload serves it.
type Undeclared = BTreeSet<(ServiceKey, u16, u16)>;

/// Tells a policy that speaks of requests which of the ports that it protects may carry something else: there it fails
/// closed.
pub(super) fn tell(context: &mut Context<'_>, written: &Written, effect: Effect, workloads: &[usize]) {
    let Written { policy, places, anybody: _ } = written;
    if !policy.rules.iter().any(speaks_of_requests) {
        return;
    }
    let drafts = workloads.iter().map(|index| &context.drafts[*index]);
    let undeclared = drafts.fold(Undeclared::new(), |mut found, draft| {
        collect(draft, context.services, &mut found);
        found
    });
    for (place, rule) in places.iter().zip(&policy.rules).filter(|(_, rule)| speaks_of_requests(rule)) {
        let only = ports_of(rule);
        let meant = undeclared.iter().filter(|(_, _, target)| only.as_ref().is_none_or(|only| only.contains(target)));
        let mut meant: Vec<String> = meant.map(|(service, port, _)| format!("{service}:{port}")).collect();
        meant.dedup();
        if meant.is_empty() {
            continue;
        }
        let more = meant.len().saturating_sub(NAMED);
        meant.truncate(NAMED);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        let then = match effect {
            Effect::Allow => "where the traffic is not HTTP the rule allows nothing",
            Effect::Deny => "where the traffic is not HTTP the rule denies whatever it says of requests",
        };
        // A rule that names the port speaks of it on purpose.
        let level = if only.is_some() { Level::Warning } else { Level::Info };
        let text = format!("{then}; not declared HTTP: {}{rest}", meant.join(", "));
        let field = format!("spec.rules[{place}]");
        context.report.tell(context.source(), Message::new(level, Code::NotEnforcedAtL4, field, text));
    }
}

fn speaks_of_requests(rule: &Rule) -> bool {
    rule.clauses.iter().flat_map(|clause| &clause.matches).any(|one| one.request != RequestMatch::default())
}

/// The workload's ports that a rule is confined to.
fn ports_of(rule: &Rule) -> Option<BTreeSet<u16>> {
    let confined = rule
        .clauses
        .iter()
        .filter(|clause| !clause.matches.is_empty() && clause.matches.iter().all(|one| !one.destination_ports.is_empty()));
    confined
        .map(|clause| clause.matches.iter().flat_map(|one| one.destination_ports.iter().copied()).collect::<BTreeSet<u16>>())
        .reduce(|one, other| one.intersection(&other).copied().collect())
}

fn collect(draft: &Draft, services: &Services, found: &mut Undeclared) {
    for (key, mappings) in &draft.workload.services {
        let Some(service) = services.by_key.get(key) else { continue };
        for mapping in mappings {
            let declared = service.service.port(mapping.service_port).is_some_and(|port| port.protocol.is_http());
            if !declared {
                found.insert((key.clone(), mapping.service_port, mapping.target_port));
            }
        }
    }
}
