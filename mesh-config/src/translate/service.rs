//! Kubernetes Services and ServiceEntries to services.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1 as core,
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, Time},
        util::intstr::IntOrString,
    },
};
use mesh_policy::model::{self, HealthPolicy, LoadBalancing, RoutingMode, ServiceKey, ServicePort, VirtualAddress};

use super::{
    Report, Settings, balancing,
    exports::Exports,
    network::{address, block},
    protocol,
    selector::Labels,
    workload::WaypointName,
};
use crate::{
    kinds::{Kind, Name, ObjectKey, Objects, Resolution, ServiceEntry},
    status::{Code, Level, Message},
};

/// Whom a Service is exported to.
const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// A service of the model, with what its endpoints must know of it.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) service: model::Service,
    /// The object that it came from.
    pub(super) source: ObjectKey,
    /// A client stays at one endpoint (`sessionAffinity: ClientIP`).
    pub(super) sticky: bool,
    pub(super) ports: Vec<Port>,
    /// None: endpoints come from EndpointSlices or are listed in the entry.
    pub(super) selector: Option<Labels>,
    pub(super) waypoint: Option<WaypointName>,
}

/// A port by its number and name, and where endpoints serve it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) number: u16,
    pub(super) name: String,
    pub(super) target: Target,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Number(u16),
    /// Each endpoint says which port has this name.
    Named(String),
}

/// All services by key.
#[derive(Debug, Default)]
pub(super) struct Services {
    pub(super) by_key: BTreeMap<ServiceKey, Draft>,
    /// Keys of the services that an object stands for: several, for a ServiceEntry with several hosts.
    pub(super) by_source: BTreeMap<ObjectKey, Vec<ServiceKey>>,
}

impl Services {
    pub(super) fn of(&self, source: &ObjectKey) -> impl Iterator<Item = &Draft> {
        self.by_source.get(source).into_iter().flatten().filter_map(|key| self.by_key.get(key))
    }

    pub(super) fn into_services(self) -> impl Iterator<Item = model::Service> {
        self.by_key.into_values().map(|draft| draft.service)
    }
}

pub(super) fn services(objects: &Objects, settings: &Settings, report: &mut Report) -> Services {
    let mut services = Services::default();
    for (name, service) in &objects.services {
        if let Some(draft) = of_kubernetes(objects, name, service, settings, report) {
            insert(&mut services, draft);
        }
    }
    // A Kubernetes Service has precedence over entries for its name, an older entry over a younger.
    let mut entries: Vec<_> = objects.service_entries.iter().collect();
    entries.sort_by_key(|(name, entry)| (created(&entry.metadata), *name));
    for (name, entry) in entries {
        for draft in of_entry(objects, name, entry, report) {
            let key = draft.service.key();
            if let Some(winner) = services.by_key.get(&key) {
                let text = format!("{} is defined by {}, which has precedence", key.hostname, winner.source);
                report.tell(draft.source, Message::new(Level::Error, Code::Conflict, "spec.hosts", text));
            } else {
                insert(&mut services, draft);
            }
        }
    }
    services
}

/// Older first; objects without a time come first and are told apart by name.
pub(super) fn created(metadata: &ObjectMeta) -> Option<&Time> {
    metadata.creation_timestamp.as_ref()
}

fn insert(services: &mut Services, draft: Draft) {
    let key = draft.service.key();
    services.by_source.entry(draft.source.clone()).or_default().push(key.clone());
    services.by_key.insert(key, draft);
}

fn of_kubernetes(
    objects: &Objects,
    name: &Name,
    service: &core::Service,
    settings: &Settings,
    report: &mut Report,
) -> Option<Draft> {
    let source = ObjectKey { kind: Kind::Service, name: name.clone() };
    let spec = service.spec.as_ref()?;
    let mut tell = |level, code, field: &str, text: String| {
        report.tell(source.clone(), Message::new(level, code, field, text));
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        tell(Level::Warning, Code::NotHonoured, "spec.type", "ExternalName is a matter of DNS: connections pass through".into());
        return None;
    }
    let sticky = spec.session_affinity.as_deref() == Some("ClientIP");
    if sticky && spec.session_affinity_config.is_some() {
        let text = "a client keeps its endpoint for as long as the endpoints stay, however long it is silent";
        tell(Level::Info, Code::NotHonoured, "spec.sessionAffinityConfig", text.into());
    }
    let exported = service.metadata.annotations.as_ref().and_then(|annotations| annotations.get(EXPORT_TO));
    let targets = exported.map_or("", String::as_str).split(',').map(str::trim).filter(|target| !target.is_empty());
    let exports = model_exports(&targets.map(str::to_owned).collect::<Vec<_>>(), name);
    let namespace = namespace_of(objects, &name.namespace);
    let http_enabled = protocol::http_enabled(Some(&service.metadata), namespace);
    let mut ports = Vec::new();
    let mut wire_ports = Vec::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
            let text = format!("port {} is not TCP: the mesh does not carry it", port.port);
            tell(Level::Info, Code::NotHonoured, &format!("spec.ports[{index}].protocol"), text);
            continue;
        }
        let Ok(number) = u16::try_from(port.port) else { continue };
        let name = port.name.clone().unwrap_or_default();
        let target = match &port.target_port {
            None => Target::Number(number),
            Some(IntOrString::Int(target)) => Target::Number(u16::try_from(*target).unwrap_or(number)),
            Some(IntOrString::String(text)) => text.parse().map_or_else(|_| Target::Named(text.clone()), Target::Number),
        };
        wire_ports.push(ServicePort {
            service_port: number,
            target_port: if let Target::Number(target) = target { target } else { 0 },
            protocol: protocol::seen(protocol::of_port(port.port, &name, port.app_protocol.as_deref()), http_enabled),
        });
        ports.push(Port { number, name, target });
    }
    let ips: Vec<&String> = match spec.cluster_ips.as_deref() {
        Some(ips) if !ips.is_empty() => ips.iter().collect(),
        _ => spec.cluster_ip.iter().collect(),
    };
    let headless = ips.iter().any(|ip| *ip == "None");
    let addresses: Vec<_> = ips.iter().filter_map(|ip| address(ip)).map(VirtualAddress::host).collect();
    if addresses.is_empty() && !headless {
        tell(Level::Info, Code::NoAddress, "spec.clusterIP", "no address: reached by the addresses of its pods only".into());
    }
    Some(Draft {
        service: model::Service {
            name: name.name.clone(),
            namespace: name.namespace.clone(),
            hostname: kubernetes_hostname(name, settings),
            addresses,
            ports: wire_ports,
            subject_alt_names: Vec::new(),
            load_balancing: balancing::of_service(
                spec,
                service.metadata.annotations.as_ref(),
                namespace.and_then(|metadata| metadata.annotations.as_ref()),
            ),
            exports,
        },
        waypoint: WaypointName::of(&service.metadata, &name.namespace, namespace),
        source,
        sticky,
        ports,
        selector: spec.selector.clone().filter(|selector| !selector.is_empty()),
    })
}

fn model_exports(targets: &[String], of: &Name) -> model::Exports {
    match Exports::of(targets, &[], &of.namespace) {
        Exports::Everyone => model::Exports::Everywhere,
        Exports::Only(namespaces) => model::Exports::To(namespaces),
    }
}

/// `<name>.<namespace>.svc.<domain>`.
pub(super) fn kubernetes_hostname(name: &Name, settings: &Settings) -> Arc<str> {
    format!("{}.{}.svc.{}", name.name, name.namespace, settings.dns_domain).into()
}

pub(super) fn namespace_of<'a>(objects: &'a Objects, namespace: &str) -> Option<&'a ObjectMeta> {
    objects.namespaces.get(&Name::new("", namespace)).map(|found| &found.metadata)
}

fn of_entry(objects: &Objects, name: &Name, entry: &ServiceEntry, report: &mut Report) -> Vec<Draft> {
    let source = ObjectKey { kind: Kind::ServiceEntry, name: name.clone() };
    let spec = &entry.spec;
    let mut tell = |level, code, field: &str, text: &str| {
        report.tell(source.clone(), Message::new(level, code, field, text));
    };
    if spec.resolution == Resolution::DynamicDns {
        let text = "hosts are not resolved as they are asked for: endpoints that have an address alone are reached";
        tell(Level::Warning, Code::NotHonoured, "spec.resolution", text);
    }
    let ranges: Vec<_> = (spec.addresses.iter())
        .filter_map(|text| block(text))
        .map(|range| VirtualAddress { network: "".into(), range })
        .collect();
    if ranges.is_empty() {
        let text = "no address: recognised by the requests' hosts, by server names, on ports of TCP by the port";
        tell(Level::Info, Code::NoAddress, "spec.addresses", text);
    }
    let exports = model_exports(&spec.export_to, name);
    let namespace = namespace_of(objects, &name.namespace);
    let http_enabled = protocol::http_enabled(Some(&entry.metadata), namespace);
    let mut ports = Vec::new();
    let mut wire_ports = Vec::new();
    for port in &spec.ports {
        let Ok(number) = u16::try_from(port.number) else { continue };
        if port.protocol.eq_ignore_ascii_case("udp") {
            continue;
        }
        let target = u16::try_from(port.target_port).ok().filter(|target| *target != 0).unwrap_or(number);
        let protocol = protocol::seen(protocol::parse(&port.protocol), http_enabled);
        wire_ports.push(ServicePort { service_port: number, target_port: target, protocol });
        ports.push(Port { number, name: port.name.clone(), target: Target::Number(target) });
    }
    let load_balancing = if spec.resolution == Resolution::None {
        LoadBalancing { mode: RoutingMode::Passthrough, preference: Vec::new(), health: HealthPolicy::AllowAll }
    } else {
        let of_namespace = namespace.and_then(|metadata| metadata.annotations.as_ref());
        balancing::distribution(None, entry.metadata.annotations.as_ref(), of_namespace)
    };
    let mut hosts = spec.hosts.clone();
    hosts.sort();
    hosts.dedup();
    hosts
        .into_iter()
        .map(|host| Draft {
            service: model::Service {
                name: name.name.clone(),
                namespace: name.namespace.clone(),
                hostname: host.into(),
                addresses: ranges.clone(),
                ports: wire_ports.clone(),
                subject_alt_names: spec.subject_alt_names.iter().map(|name| name.as_str().into()).collect(),
                load_balancing: load_balancing.clone(),
                exports: exports.clone(),
            },
            source: source.clone(),
            sticky: false,
            ports: ports.clone(),
            selector: spec.workload_selector.as_ref().map(|selector| selector.labels.clone()).filter(|labels| !labels.is_empty()),
            waypoint: WaypointName::of(&entry.metadata, &name.namespace, namespace),
        })
        .collect()
}
