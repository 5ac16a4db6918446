//! Which workloads stand behind which service, and on which ports.
//!
//! A Kubernetes Service with EndpointSlices has the endpoints that they list; one without is given those that its
//! selector matches. A ServiceEntry has the endpoints that it lists, or those that its selector matches.
//!
//! A pod's health is what the pod says. Slices that Kubernetes itself writes say the same, later; those of others may know
//! better: a pod that is not ready in one of these is no endpoint of the service.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use mesh_policy::model::{Health, HealthPolicy, PortMapping, ServiceKey, TrustDomain};

use super::{
    Settings,
    network::address,
    selector::SelectorIndex,
    service::{self, Services, Target},
    workload::{Draft, Origin, is_ready, of_slice},
};
use crate::kinds::{Kind, Name, ObjectKey, Objects};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The part of Kubernetes that makes slices of selectors.
const CONTROLLER: &str = "endpointslice-controller.k8s.io";

pub(super) fn join(
    objects: &Objects,
    settings: &Settings,
    trust_domain: &TrustDomain,
    services: &Services,
    drafts: &mut Vec<Draft>,
) {
    let sliced = by_slices(objects, settings, trust_domain, services, drafts);
    by_selectors(services, &sliced, drafts);
    inline(services, drafts);
}

/// Joins what EndpointSlices list, and says for which services they do.
fn by_slices(
    objects: &Objects,
    settings: &Settings,
    trust_domain: &TrustDomain,
    services: &Services,
    drafts: &mut Vec<Draft>,
) -> BTreeSet<ServiceKey> {
    let pods: HashMap<Name, usize> = (drafts.iter().enumerate())
        .filter(|(_, draft)| draft.source.kind == Kind::Pod)
        .map(|(index, draft)| (draft.source.name.clone(), index))
        .collect();
    let mut sliced = BTreeSet::new();
    let mut others: BTreeMap<_, Draft> = BTreeMap::new();
    for (name, slice) in &objects.endpoint_slices {
        let label = |name: &str| slice.metadata.labels.as_ref()?.get(name).map(String::as_str);
        let Some(service) = label(SERVICE_NAME) else { continue };
        let source = ObjectKey::new(Kind::Service, &name.namespace, service);
        let Some(service) = services.of(&source).next().filter(|_| slice.address_type != "FQDN") else {
            continue;
        };
        let key = service.service.key();
        sliced.insert(key.clone());
        let mappings = mappings_of_slice(slice, service);
        let unready_too = service.service.load_balancing.health == HealthPolicy::AllowAll;
        let says_what_pods_say = unready_too || label(MANAGED_BY) == Some(CONTROLLER);
        for endpoint in &slice.endpoints {
            let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
            if let Some(target) = target {
                let namespace = target.namespace.as_deref().unwrap_or(&name.namespace);
                let pod = target.name.as_deref().and_then(|pod| pods.get(&Name::new(namespace, pod)));
                if let Some(index) = pod {
                    let draft = &mut drafts[*index];
                    if says_what_pods_say || is_ready(endpoint) || draft.workload.health != Health::Healthy {
                        serve(draft, &key, &mappings);
                    }
                }
                continue;
            }
            let Some(at) = endpoint.addresses.first().and_then(|text| address(text)) else { continue };
            let draft = of_slice(name, at, endpoint, objects, settings, trust_domain);
            serve(others.entry(draft.workload.uid.clone()).or_insert(draft), &key, &mappings);
        }
    }
    drafts.extend(others.into_values());
    sliced
}

/// The slice names the service's ports and numbers those of its endpoints.
fn mappings_of_slice(slice: &EndpointSlice, service: &service::Draft) -> Vec<PortMapping> {
    let tcp = |protocol: Option<&str>| protocol.is_none_or(|protocol| protocol == "TCP");
    let of = |wanted: &service::Port| {
        let ports = slice.ports.iter().flatten().filter(|port| tcp(port.protocol.as_deref()));
        let number = ports.filter(|port| port.name.as_deref().unwrap_or_default() == wanted.name).find_map(|port| port.port)?;
        Some(PortMapping { service_port: wanted.number, target_port: u16::try_from(number).ok()? })
    };
    service.ports.iter().filter_map(of).collect()
}

fn by_selectors(services: &Services, sliced: &BTreeSet<ServiceKey>, drafts: &mut [Draft]) {
    let mut index: BTreeMap<&str, SelectorIndex<'_, &service::Draft>> = BTreeMap::new();
    for (key, service) in services.by_key.iter().filter(|(key, _)| !sliced.contains(key)) {
        if let Some(selector) = &service.selector {
            index.entry(&key.namespace).or_default().insert(selector, service);
        }
    }
    for draft in drafts {
        if !matches!(draft.origin, Origin::Pod { .. } | Origin::Entry { .. }) {
            continue;
        }
        let Some(selectors) = index.get(&*draft.workload.namespace) else { continue };
        for service in selectors.matching(&draft.labels) {
            let mappings = mappings(draft, service);
            serve(draft, &service.service.key(), &mappings);
        }
    }
}

fn inline(services: &Services, drafts: &mut [Draft]) {
    for draft in drafts {
        let Origin::Inline { host, .. } = &draft.origin else { continue };
        let of_host = |service: &&service::Draft| host.as_ref().is_none_or(|host| *host == service.service.hostname);
        for service in services.of(&draft.source.clone()).filter(of_host).collect::<Vec<_>>() {
            let mappings = mappings(draft, service);
            serve(draft, &service.service.key(), &mappings);
        }
    }
}

fn serve(draft: &mut Draft, service: &ServiceKey, mappings: &[PortMapping]) {
    let served = draft.workload.services.entry(service.clone()).or_default();
    served.extend(mappings);
    served.sort();
    served.dedup();
}

/// Where the workload serves each port of the service; a port that it does not have is left out.
fn mappings(draft: &Draft, service: &service::Draft) -> Vec<PortMapping> {
    let ports = match &draft.origin {
        Origin::Pod { ports } | Origin::Entry { ports } | Origin::Inline { ports, .. } => ports,
        Origin::Slice => return Vec::new(),
    };
    // A pod's ports go by the names that a Service's targets have; nothing else names them in a ServiceEntry, or those of
    // a WorkloadEntry, than the name of the service's port itself.
    let by_port_name = !(matches!(draft.origin, Origin::Pod { .. }) && service.source.kind == Kind::Service);
    let target = |port: &service::Port| match &port.target {
        Target::Named(name) => ports.get(name).copied(),
        Target::Number(number) if by_port_name => Some(ports.get(&port.name).copied().unwrap_or(*number)),
        Target::Number(number) => Some(*number),
    };
    let mapping = |port: &service::Port| Some(PortMapping { service_port: port.number, target_port: target(port)? });
    service.ports.iter().filter_map(mapping).collect()
}
