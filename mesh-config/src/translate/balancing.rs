//! Which endpoints a service's clients prefer.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ServiceSpec;
use mesh_policy::model::{HealthPolicy, LoadBalancing, RoutingMode, RoutingScope};

const ANNOTATION: &str = "networking.istio.io/traffic-distribution";

type Annotations = BTreeMap<String, String>;

/// `internalTrafficPolicy: Local` before `trafficDistribution` before annotations.
pub(super) fn of_service(spec: &ServiceSpec, own: Option<&Annotations>, of_namespace: Option<&Annotations>) -> LoadBalancing {
    let mut balancing = if spec.internal_traffic_policy.as_deref() == Some("Local") {
        LoadBalancing { mode: RoutingMode::Strict, preference: vec![RoutingScope::Node], health: HealthPolicy::OnlyHealthy }
    } else {
        distribution(spec.traffic_distribution.as_deref(), own, of_namespace)
    };
    if spec.publish_not_ready_addresses == Some(true) {
        balancing.health = HealthPolicy::AllowAll;
    }
    balancing
}

/// From the field, else the object's annotation, else the namespace's. An annotation that is not understood still hides
/// that of the namespace, as in Istio.
pub(super) fn distribution(field: Option<&str>, own: Option<&Annotations>, of_namespace: Option<&Annotations>) -> LoadBalancing {
    let preference = field.and_then(|value| scopes(value, false));
    let annotated = || {
        let of = |annotations: Option<&Annotations>| {
            annotations.and_then(|found| found.get(ANNOTATION)).filter(|v| !v.is_empty()).cloned()
        };
        of(own).or_else(|| of(of_namespace)).and_then(|value| scopes(&value, true))
    };
    match preference.or_else(annotated) {
        Some(preference) => LoadBalancing { mode: RoutingMode::Failover, preference, health: HealthPolicy::OnlyHealthy },
        None => LoadBalancing::default(),
    }
}

fn scopes(value: &str, any_case: bool) -> Option<Vec<RoutingScope>> {
    use RoutingScope::{Network, Node, Region, Subzone, Zone};
    let is = |name: &str| if any_case { value.eq_ignore_ascii_case(name) } else { value == name };
    if is("PreferClose") || is("PreferSameZone") {
        Some(vec![Network, Region, Zone])
    } else if is("PreferSameNode") {
        Some(vec![Network, Region, Zone, Subzone, Node])
    } else {
        None
    }
}
