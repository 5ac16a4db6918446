//! Waypoints: Gateways that ambient would run as proxies of their own. Here the nodes' proxies do their work, so that they
//! are programmed without a deployment, and are only names that policies and services are bound to.

use std::collections::BTreeSet;

use super::super::{Report, workload::WaypointName};
use crate::{
    kinds::{Kind, ObjectKey, Objects, gateway::Gateway},
    status::{Code, Condition, Conditions, Level, Message},
};

/// The class of waypoints that every mesh knows …
const CLASS: &str = "istio-waypoint";
/// … and the controllers whose classes are waypoints' too.
const CONTROLLERS: [&str; 2] = ["istio.io/mesh-controller", crate::status::CONTROLLER];

/// All waypoints that there are.
pub(in crate::translate) struct Waypoints(BTreeSet<WaypointName>);

impl Waypoints {
    /// Finds them and tells each Gateway and GatewayClass what it is.
    pub(in crate::translate) fn of(
        objects: &Objects,
        conditions: &mut std::collections::BTreeMap<ObjectKey, Conditions>,
        report: &mut Report,
    ) -> Self {
        for (name, class) in &objects.gateway_classes {
            if is_class(objects, &name.name) {
                let accepted = Condition::new("Accepted", true, "Accepted", "its Gateways are waypoints");
                let own = vec![Condition { observed_generation: class.metadata.generation, ..accepted }];
                let key = ObjectKey { kind: Kind::GatewayClass, name: name.clone() };
                conditions.insert(key, Conditions { own, parents: Vec::new() });
            }
        }
        let mut waypoints = BTreeSet::new();
        for (name, gateway) in &objects.gateways {
            let key = ObjectKey { kind: Kind::Gateway, name: name.clone() };
            let class = &gateway.spec.gateway_class_name;
            if is_class(objects, class) {
                waypoints.insert(WaypointName { namespace: name.namespace.to_string(), name: name.name.to_string() });
                conditions.insert(key, Conditions { own: programmed(gateway), parents: Vec::new() });
            } else {
                let text = format!("Gateways of the class {class} are not carried out in this version");
                report.tell(key, Message::new(Level::Warning, Code::UnsupportedKind, "spec.gatewayClassName", text));
            }
        }
        Self(waypoints)
    }

    pub(in crate::translate) fn contains(&self, name: &WaypointName) -> bool {
        self.0.contains(name)
    }

    pub(in crate::translate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn is_class(objects: &Objects, class: &str) -> bool {
    let found = objects.gateway_classes.get(&crate::kinds::Name::new("", class));
    class == CLASS || found.is_some_and(|found| CONTROLLERS.contains(&found.spec.controller_name.as_str()))
}

fn programmed(gateway: &Gateway) -> Vec<Condition> {
    let text = "the nodes' proxies do its work: nothing is deployed for it";
    let conditions = [("Accepted", "Accepted"), ("Programmed", "Programmed")];
    let of = |(r#type, reason)| Condition {
        observed_generation: gateway.metadata.generation,
        ..Condition::new(r#type, true, reason, text)
    };
    conditions.map(of).into()
}
