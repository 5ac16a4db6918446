//! What the Gateway API wants to be told of a route.

use std::collections::BTreeMap;

use mesh_policy::model::RoutesKey;

use super::{Attachment, Draft};
use crate::{
    kinds::ObjectKey,
    status::{Condition, Conditions, ParentStatus},
};

/// A status for each parent of the mesh. `lost`: ports that routes of the other kind have.
pub(super) fn of_route(draft: &Draft, lost: Option<&BTreeMap<RoutesKey, ObjectKey>>) -> Conditions {
    let of_parent = |attachment: &Attachment| {
        let accepted = match attachment {
            Attachment::Elsewhere => return None,
            Attachment::Refused { reason, message } => Condition::new("Accepted", false, reason, message),
            Attachment::To(targets) => {
                let taken: Vec<_> = targets.iter().filter_map(|target| lost?.get(target)).collect();
                match taken.first() {
                    Some(other) if taken.len() == targets.len() => {
                        let text = format!("{other} is older: a port has HTTPRoutes or GRPCRoutes, not both");
                        Condition::new("Accepted", false, "Conflicted", text)
                    }
                    _ if draft.wholly_failing() => Condition::new("Accepted", false, "UnsupportedValue", draft.failures()),
                    _ => Condition::new("Accepted", true, "Accepted", ports(targets.iter(), lost)),
                }
            }
        };
        let in_force = accepted.holds();
        let mut conditions = vec![accepted, draft.resolved()];
        if in_force && !draft.rules.failing.is_empty() {
            let text = format!("Dropped Rule(s): {}", draft.failures());
            conditions.push(Condition::new("PartiallyInvalid", true, "UnsupportedValue", text));
        }
        for condition in &mut conditions {
            condition.observed_generation = draft.generation;
        }
        Some(conditions)
    };
    let parents =
        draft.parents.iter().filter_map(|(parent, attachment)| Some(ParentStatus::new(parent.clone(), of_parent(attachment)?)));
    Conditions { own: Vec::new(), parents: parents.collect() }
}

impl Draft {
    fn resolved(&self) -> Condition {
        let Some(first) = self.rules.unresolved.first() else {
            return Condition::new("ResolvedRefs", true, "ResolvedRefs", "every reference leads somewhere");
        };
        let texts: Vec<String> = self.rules.unresolved.iter().map(|one| format!("{}: {}", one.field, one.text)).collect();
        Condition::new("ResolvedRefs", false, first.reason.as_str(), texts.join("; "))
    }

    /// Whether no rule does anything but fail.
    fn wholly_failing(&self) -> bool {
        let rules = self.rules.failing.iter().filter(|(field, _)| !field.contains("backendRefs"));
        self.rules.count > 0 && rules.count() == self.rules.count
    }

    fn failures(&self) -> String {
        let texts: Vec<String> = self.rules.failing.iter().map(|(field, text)| format!("{field}: {text}")).collect();
        texts.join("; ")
    }
}

fn ports<'a>(targets: impl Iterator<Item = &'a RoutesKey>, lost: Option<&BTreeMap<RoutesKey, ObjectKey>>) -> String {
    let (lost, mut kept): (Vec<_>, Vec<_>) = targets.partition(|target| lost.is_some_and(|lost| lost.contains_key(*target)));
    kept.dedup_by_key(|target| target.port);
    let list = |targets: &[&RoutesKey]| targets.iter().map(|target| target.port.to_string()).collect::<Vec<_>>().join(", ");
    let whose = match kept.first().and_then(|target| target.consumer.as_ref()) {
        Some(consumer) => format!("for the clients of {consumer}"),
        None => "for every client".to_owned(),
    };
    let except =
        if lost.is_empty() { String::new() } else { format!("; not on {}, which has routes of another kind", list(&lost)) };
    format!("in force on port {} {whose}{except}", list(&kept))
}
