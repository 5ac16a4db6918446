//! Pods, WorkloadEntries and the endpoints listed in ServiceEntries to workloads.

mod addresses;
mod exclusions;
mod names;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use addresses::Age;
pub(super) use addresses::settle_addresses;
use k8s_openapi::{
    api::{core::v1 as core, discovery::v1::Endpoint},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use mesh_policy::model::{Health, Locality, NetworkMode, TrustDomain, TunnelProtocol, Workload, WorkloadKind, WorkloadUid};
use names::{canonical_name, canonical_revision, owner};

use super::{
    Redirection, Report, Settings,
    network::address,
    selector::Labels,
    service::{Services, namespace_of},
};
use crate::{
    kinds::{Kind, Name, ObjectKey, Objects, WorkloadEntrySpec},
    status::{Code, Level, Message},
};

/// A workload of the model, with what services and policies select it by.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) workload: Workload,
    /// The object that it came from.
    pub(super) source: ObjectKey,
    pub(super) labels: Labels,
    pub(super) origin: Origin,
    pub(super) waypoint: Option<WaypointName>,
    /// Whether policies protect it: not what is known from an EndpointSlice alone.
    pub(super) protected: bool,
    /// When the object was made, and whether it is going.
    age: Age,
}

/// How the workload finds its ports.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// Container ports by name.
    Pod { ports: BTreeMap<String, u16> },
    /// `ports` of a WorkloadEntry, by the names of the service's ports.
    Entry { ports: BTreeMap<String, u16> },
    /// The same, listed in a ServiceEntry: an endpoint of that entry alone, and of one host where hosts stand for
    /// endpoints.
    Inline { ports: BTreeMap<String, u16>, host: Option<Arc<str>> },
    /// Ports come with the slice.
    Slice,
}

/// The waypoint Gateway that a user has put before something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WaypointName {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl WaypointName {
    /// From the object's labels, else those of its namespace; `none` opts out.
    pub(super) fn of(metadata: &ObjectMeta, namespace: &str, of_namespace: Option<&ObjectMeta>) -> Option<Self> {
        let labels = [metadata.labels.as_ref(), of_namespace.and_then(|found| found.labels.as_ref())];
        let labels = labels.into_iter().flatten().find(|labels| labels.contains_key("istio.io/use-waypoint"))?;
        let name = labels.get("istio.io/use-waypoint").filter(|name| *name != "none" && !name.is_empty())?;
        let namespace = labels.get("istio.io/use-waypoint-namespace").map_or(namespace, String::as_str);
        Some(Self { namespace: namespace.to_owned(), name: name.clone() })
    }
}

pub(super) fn drafts(
    objects: &Objects,
    settings: &Settings,
    trust_domain: &TrustDomain,
    captured: &BTreeSet<WorkloadUid>,
    services: &Services,
    report: &mut Report,
) -> Vec<Draft> {
    let capturing = objects.pods.iter().filter(|(name, _)| captured.contains(&settings.pod_uid(&name.namespace, &name.name)));
    let capturing = capturing.filter_map(|(_, pod)| pod.spec.as_ref()?.node_name.as_deref()).collect();
    let facts = Facts { objects, settings, trust_domain, captured, capturing };
    let mut drafts: Vec<Draft> = objects.pods.iter().filter_map(|(name, pod)| facts.of_pod(name, pod)).collect();
    for draft in drafts.iter().filter(|draft| captured.contains(&draft.workload.uid)) {
        let pod = objects.pods.get(&draft.source.name).map(|pod| exclusions::remarks(&pod.metadata));
        for remark in pod.into_iter().flatten() {
            report.tell(draft.source.clone(), remark);
        }
    }
    drafts.extend(objects.workload_entries.iter().filter_map(|(name, entry)| {
        let source = ObjectKey { kind: Kind::WorkloadEntry, name: name.clone() };
        if !entry.spec.network.is_empty() {
            let text = "workloads of other networks are left out in this version";
            report.tell(source, Message::new(Level::Error, Code::NotHonoured, "spec.network", text));
            return None;
        }
        Some(facts.of_entry(name, entry, source))
    }));
    for (name, entry) in &objects.service_entries {
        let source = ObjectKey { kind: Kind::ServiceEntry, name: name.clone() };
        // An entry whose every host is another's has no endpoints either.
        if services.of(&source).next().is_none() {
            continue;
        }
        drafts.extend(facts.of_service_entry(name, entry, &source, services, report));
    }
    drafts
}

struct Facts<'a> {
    objects: &'a Objects,
    settings: &'a Settings,
    trust_domain: &'a TrustDomain,
    captured: &'a BTreeSet<WorkloadUid>,
    /// The nodes on which a capture of ours stands.
    capturing: BTreeSet<&'a str>,
}

impl Facts<'_> {
    fn of_pod(&self, name: &Name, pod: &core::Pod) -> Option<Draft> {
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let ips: Vec<&String> = match status.pod_ips.as_deref() {
            Some(ips) if !ips.is_empty() => ips.iter().map(|ip| &ip.ip).collect(),
            _ => status.pod_ip.iter().collect(),
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for found in ips.into_iter().filter_map(|ip| address(ip)) {
            if !addresses.contains(&found) {
                addresses.push(found);
            }
        }
        if addresses.is_empty() {
            return None;
        }
        let ready = status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let leaving = pod.metadata.deletion_timestamp.is_some();
        let uid = self.settings.pod_uid(&name.namespace, &name.name);
        let host_network = spec.host_network == Some(true);
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let (kind, workload_name) = owner(name, &pod.metadata, &labels);
        let account = spec.service_account_name.as_deref().or(spec.service_account.as_deref()).filter(|name| !name.is_empty());
        let node = spec.node_name.as_deref().unwrap_or_default();
        // Of a node of ours its reports alone count: what another mesh once wrote there may be out of date.
        let of_others = || match self.settings.redirection {
            Redirection::OfOthers => redirected(&pod.metadata) && !self.capturing.contains(node),
            Redirection::Reported => false,
        };
        let captured = self.captured.contains(&uid) || of_others();
        let tunnels = (captured && !host_network) || speaks_hbone(&labels);
        let workload = Workload {
            network_mode: if host_network { NetworkMode::HostNetwork } else { NetworkMode::Standard },
            tunnel: if tunnels { TunnelProtocol::Hbone } else { TunnelProtocol::None },
            service_account: account.unwrap_or("default").into(),
            node: node.into(),
            canonical_name: canonical_name(&labels).unwrap_or(&workload_name).into(),
            canonical_revision: canonical_revision(&labels).into(),
            kind,
            workload_name,
            health: if ready && !leaving { Health::Healthy } else { Health::Unhealthy },
            locality: locality_of_node(self.objects, node),
            addresses,
            ..self.blank(uid, name)
        };
        let container_ports = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let ports = container_ports
            .flat_map(|container| container.ports.iter().flatten())
            .filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
            .filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?)));
        // Of several ports with one name the first counts.
        let mut by_name = BTreeMap::new();
        for (port, number) in ports {
            by_name.entry(port).or_insert(number);
        }
        Some(self.draft(
            workload,
            ObjectKey { kind: Kind::Pod, name: name.clone() },
            &pod.metadata,
            Origin::Pod { ports: by_name },
        ))
    }

    fn of_entry(&self, name: &Name, entry: &crate::kinds::WorkloadEntry, source: ObjectKey) -> Draft {
        let Self { settings, .. } = self;
        let uid = WorkloadUid(
            format!("{}/networking.istio.io/WorkloadEntry/{}/{}", settings.cluster, name.namespace, name.name).into(),
        );
        // Labels of the spec are those of the instance; the object's own complete them.
        let mut labels = entry.metadata.labels.clone().unwrap_or_default();
        labels.extend(entry.spec.labels.clone());
        let mut workload = self.of_spec(uid, name, &entry.spec, &labels);
        if redirected(&entry.metadata) || speaks_hbone(&labels) {
            workload.tunnel = TunnelProtocol::Hbone;
        }
        let origin = Origin::Entry { ports: ports_of(&entry.spec) };
        let mut draft = self.draft(workload, source, &entry.metadata, origin);
        draft.labels = labels;
        draft
    }

    fn of_service_entry(
        &self,
        name: &Name,
        entry: &crate::kinds::ServiceEntry,
        source: &ObjectKey,
        services: &Services,
        report: &mut Report,
    ) -> Vec<Draft> {
        use crate::kinds::Resolution::{Dns, DnsRoundRobin, DynamicDns, None as NoResolution, Static};
        let labels = entry.metadata.labels.clone().unwrap_or_default();
        let by_name = match entry.spec.resolution {
            Dns | DnsRoundRobin => entry.spec.endpoints.is_empty() && entry.spec.workload_selector.is_none(),
            Static | NoResolution | DynamicDns => false,
        };
        let implicit: Vec<WorkloadEntrySpec> = if by_name {
            let of_host = |host: &Arc<str>| WorkloadEntrySpec { address: host.to_string(), ..WorkloadEntrySpec::default() };
            services.of(source).map(|draft| of_host(&draft.service.hostname)).collect()
        } else {
            Vec::new()
        };
        let endpoints = entry.spec.endpoints.iter().chain(&implicit);
        let mut drafts = Vec::new();
        for (index, endpoint) in endpoints.enumerate() {
            if !endpoint.network.is_empty() {
                let (field, text) =
                    (format!("spec.endpoints[{index}].network"), "endpoints of other networks are left out in this version");
                report.tell(source.clone(), Message::new(Level::Error, Code::NotHonoured, field, text));
                continue;
            }
            let (cluster, namespace) = (&self.settings.cluster, &name.namespace);
            let uid = format!("{cluster}/networking.istio.io/ServiceEntry/{namespace}/{}/{}", name.name, endpoint.address);
            let mut workload = self.of_spec(WorkloadUid(uid.into()), name, endpoint, &labels);
            workload.workload_name = name.name.clone();
            let host = by_name.then(|| endpoint.address.as_str().into());
            let origin = Origin::Inline { ports: ports_of(endpoint), host };
            let mut draft = self.draft(workload, source.clone(), &entry.metadata, origin);
            // Subsets speak of the endpoint's own labels.
            draft.labels.extend(endpoint.labels.clone());
            drafts.push(draft);
        }
        drafts
    }

    fn of_spec(&self, uid: WorkloadUid, name: &Name, spec: &WorkloadEntrySpec, labels: &Labels) -> Workload {
        let found = address(&spec.address);
        let workload_name: Arc<str> =
            labels.get("service.istio.io/workload-name").map_or(name.name.clone(), |n| n.as_str().into());
        let mut locality = spec.locality.splitn(3, '/').map(Arc::<str>::from);
        let mut next = || locality.next().unwrap_or_default();
        Workload {
            addresses: found.into_iter().collect(),
            hostname: if found.is_some() { "".into() } else { spec.address.as_str().into() },
            service_account: if spec.service_account.is_empty() { "default" } else { &spec.service_account }.into(),
            canonical_name: canonical_name(labels).unwrap_or(&workload_name).into(),
            canonical_revision: canonical_revision(labels).into(),
            workload_name,
            locality: Locality { region: next(), zone: next(), subzone: next() },
            capacity: spec.weight.max(1),
            labels: BTreeMap::new(),
            ..self.blank(uid, name)
        }
    }

    fn blank(&self, uid: WorkloadUid, name: &Name) -> Workload {
        blank(uid, name, self.settings, self.trust_domain)
    }

    fn draft(&self, workload: Workload, source: ObjectKey, metadata: &ObjectMeta, origin: Origin) -> Draft {
        let namespace = &source.name.namespace;
        Draft {
            waypoint: WaypointName::of(metadata, namespace, namespace_of(self.objects, namespace)),
            labels: metadata.labels.clone().unwrap_or_default(),
            age: Age::of(metadata),
            protected: true,
            workload,
            source,
            origin,
        }
    }
}

/// Where a node is, by its labels.
fn locality_of_node(objects: &Objects, node: &str) -> Locality {
    let labels = objects.nodes.get(&Name::new("", node)).and_then(|node| node.metadata.labels.as_ref());
    let label = |names: &[&str]| -> Arc<str> {
        let found = labels.and_then(|labels| names.iter().find_map(|name| labels.get(*name)));
        found.map_or_else(|| "".into(), |value| value.as_str().into())
    };
    Locality {
        region: label(&["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"]),
        zone: label(&["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"]),
        subzone: label(&["topology.istio.io/subzone"]),
    }
}

fn blank(uid: WorkloadUid, name: &Name, settings: &Settings, trust_domain: &TrustDomain) -> Workload {
    Workload {
        uid,
        name: name.name.clone(),
        namespace: name.namespace.clone(),
        addresses: Vec::new(),
        hostname: "".into(),
        network: "".into(),
        network_mode: NetworkMode::Standard,
        tunnel: TunnelProtocol::None,
        trust_domain: trust_domain.clone(),
        service_account: "default".into(),
        node: "".into(),
        cluster: settings.cluster.clone(),
        canonical_name: "".into(),
        canonical_revision: "".into(),
        kind: WorkloadKind::Pod,
        workload_name: name.name.clone(),
        policies: Vec::new(),
        health: Health::Healthy,
        locality: Locality::default(),
        capacity: 1,
        labels: BTreeMap::new(),
        services: BTreeMap::new(),
    }
}

/// What an EndpointSlice says of an address that is no pod's. It may be anyone's, so it is never looked up by address.
pub(super) fn of_slice(
    slice: &Name,
    at: IpAddr,
    endpoint: &Endpoint,
    objects: &Objects,
    settings: &Settings,
    trust_domain: &TrustDomain,
) -> Draft {
    let uid = format!("{}/discovery.k8s.io/EndpointSlice/{}/{}/{at}", settings.cluster, slice.namespace, slice.name);
    let node = endpoint.node_name.as_deref().unwrap_or_default();
    let mut locality = locality_of_node(objects, node);
    if let Some(zone) = endpoint.zone.as_deref().filter(|_| locality.zone.is_empty()) {
        locality.zone = zone.into();
    }
    let workload = Workload {
        addresses: vec![at],
        network_mode: NetworkMode::HostNetwork,
        health: if is_ready(endpoint) { Health::Healthy } else { Health::Unhealthy },
        node: node.into(),
        locality,
        ..blank(WorkloadUid(uid.into()), slice, settings, trust_domain)
    };
    Draft {
        workload,
        source: ObjectKey { kind: Kind::EndpointSlice, name: slice.clone() },
        labels: Labels::new(),
        origin: Origin::Slice,
        waypoint: None,
        protected: false,
        age: Age::of(&ObjectMeta::default()),
    }
}

/// Whether an EndpointSlice says that connections may be opened to the endpoint; unknown is yes.
pub(super) fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

fn ports_of(spec: &WorkloadEntrySpec) -> BTreeMap<String, u16> {
    spec.ports.iter().filter_map(|(name, port)| Some((name.clone(), u16::try_from(*port).ok()?))).collect()
}

/// Whether another proxy of ambient says that it captures the workload.
fn redirected(metadata: &ObjectMeta) -> bool {
    let annotations = metadata.annotations.as_ref();
    annotations.and_then(|found| found.get("ambient.istio.io/redirection")).is_some_and(|value| value == "enabled")
}

/// Whether the workload takes HBONE itself.
fn speaks_hbone(labels: &Labels) -> bool {
    labels.get("networking.istio.io/tunnel").is_some_and(|value| value == "http")
}
