//! The whole model at one moment, indexed for the data path, and the mutable [`Model`] that snapshots are taken of.
//!
//! A connection loads one [`Snapshot`] and decides everything on it. The writer changes a [`Model`] and takes the next
//! snapshot; values are shared by `Arc`, so that taking one costs the clone of the maps only (1.5 ms for 50,000
//! entries), and writers batch.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    AppProtocol, Applies, Authorization, Document, DocumentKey, HttpSettings, Mesh, NetworkMode, PolicyKey, Routes, RoutesKey,
    Scope, Service, ServiceKey, Telemetry, TelemetryKey, TrafficKey, TrafficRule, Workload, WorkloadUid,
};
use crate::balance::Pool;

/// A workload behind a service.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub workload: Arc<Workload>,
    pub service: ServiceKey,
}

/// Everything that a node knows, immutable.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    model: Model,
    by_address: HashMap<IpAddr, Arc<Workload>>,
    node_addresses: HashSet<IpAddr>,
    by_virtual_address: HashMap<IpAddr, Arc<Service>>,
    /// Ranges of ServiceEntries, longest prefix first.
    ranges: Vec<(IpNet, Arc<Service>)>,
    /// ServiceEntries by their ports, in the order of their keys.
    entries: HashMap<u16, Vec<Arc<Service>>>,
    endpoints: HashMap<ServiceKey, Arc<[Endpoint]>>,
    pools: HashMap<ServiceKey, Pool>,
    global_policies: Vec<Arc<Authorization>>,
    namespace_policies: HashMap<Arc<str>, Vec<Arc<Authorization>>>,
    /// Those for some of a namespace's workloads, in their order.
    narrow_telemetry: HashMap<Arc<str>, Vec<Arc<Telemetry>>>,
}

impl Snapshot {
    /// What the snapshot was taken of.
    pub fn model(&self) -> &Model {
        &self.model
    }

    pub fn mesh(&self) -> &Mesh {
        &self.model.mesh
    }

    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.model.workloads.get(uid)
    }

    /// The workload that owns an address of the local network; never one that shares its node's.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(&address)
    }

    /// Whether an address is a node's, shared by the workloads of its host network.
    pub fn is_node_address(&self, address: IpAddr) -> bool {
        self.node_addresses.contains(&address)
    }

    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.model.services.get(key)
    }

    /// The service that owns a virtual address: an exact address before a range, a longer prefix before a shorter.
    pub fn service_at(&self, address: IpAddr) -> Option<&Arc<Service>> {
        self.by_virtual_address
            .get(&address)
            .or_else(|| self.ranges.iter().find(|(range, _)| range.contains(&address)).map(|(_, service)| service))
    }

    /// The ServiceEntries that declare a port, in the order of their keys.
    pub fn entries_at(&self, port: u16) -> &[Arc<Service>] {
        self.entries.get(&port).map_or(&[], |entries| entries)
    }

    /// The workloads behind a service, in the order of their uids.
    pub fn endpoints(&self, key: &ServiceKey) -> &[Endpoint] {
        self.endpoints.get(key).map_or(&[], |endpoints| endpoints)
    }

    /// A service of the model with its endpoints, ready to be picked from.
    pub fn pool(&self, key: &ServiceKey) -> Option<&Pool> {
        self.pools.get(key)
    }

    /// Every policy that applies to a workload: mesh-wide, of its namespace, and those that select it.
    pub fn policies_of<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = &'a Arc<Authorization>> {
        let of_namespace = self.namespace_policies.get(&workload.namespace).into_iter().flatten();
        let selecting = workload.policies.iter().filter_map(|key| self.model.policies.get(key));
        self.global_policies.iter().chain(of_namespace).chain(selecting)
    }

    /// A policy that the workload names but that has not arrived: nothing may be judged without it.
    pub fn missing_policy<'a>(&self, workload: &'a Workload) -> Option<&'a PolicyKey> {
        workload.policies.iter().find(|key| !self.model.policies.contains_key(key))
    }

    /// The routes of a service's port for a client's namespace: its own, else everybody's.
    pub fn routes(&self, service: &ServiceKey, port: u16, client_namespace: &Arc<str>) -> Option<&Arc<Routes>> {
        let key = |consumer| RoutesKey { service: service.clone(), port, consumer };
        let of = |consumer| self.model.routes.get(&key(consumer));
        of(Some(client_namespace.clone())).or_else(|| of(None))
    }

    /// The same for one host. A service whose hostname is a wildcard may have routes for hosts that it stands for: those of
    /// the host itself come first, then those of the longest wildcard.
    pub fn routes_for(
        &self,
        service: &Service,
        port: u16,
        client_namespace: &Arc<str>,
        host: Option<&str>,
    ) -> Option<&Arc<Routes>> {
        let key = |hostname: &str| ServiceKey { namespace: service.namespace.clone(), hostname: hostname.into() };
        let named = host.filter(|_| service.hostname.starts_with('*')).and_then(|host| {
            let mut narrower = names_of(host).take_while(|name| name.len() > service.hostname.len());
            narrower.find_map(|name| self.routes(&key(&name), port, client_namespace))
        });
        named.or_else(|| self.routes(&service.key(), port, client_namespace))
    }

    /// The treatment of a service's endpoints for a client's namespace: its own, else everybody's.
    pub fn traffic(&self, service: &ServiceKey, client_namespace: &Arc<str>) -> Option<&Arc<TrafficRule>> {
        let key = |consumer| TrafficKey { service: service.clone(), consumer };
        let of = |consumer| self.model.traffic.get(&key(consumer));
        of(Some(client_namespace.clone())).or_else(|| of(None))
    }

    pub fn http(&self) -> &Arc<HttpSettings> {
        &self.model.http
    }

    /// What is told of a workload's traffic, for the half that serves `service` or, if None, that calls or serves nobody's. None:
    /// nobody has said anything.
    pub fn telemetry(&self, workload: &Workload, serves: Option<&ServiceKey>) -> Option<&Arc<Telemetry>> {
        let applies = |telemetry: &&Arc<Telemetry>| match &telemetry.applies {
            Applies::All => true,
            Applies::Labelled(labels) => labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value)),
            Applies::Services(services) => serves.is_some_and(|service| services.contains(service)),
        };
        let narrow = self.narrow_telemetry.get(&workload.namespace).and_then(|narrow| narrow.iter().find(applies));
        let wide = |key| self.model.telemetry.get(&key);
        narrow.or_else(|| {
            if self.model.telemetry.is_empty() {
                return None;
            }
            wide(TelemetryKey::Namespace(workload.namespace.clone())).or_else(|| wide(TelemetryKey::Mesh))
        })
    }

    /// What a workload's port was declared to speak, by the services that it serves there: HTTP if any of them says so.
    pub fn protocol_at(&self, workload: &Workload, target_port: u16) -> AppProtocol {
        let declared = workload.services.iter().flat_map(|(key, mappings)| {
            let service = self.service(key);
            let here = mappings.iter().filter(move |mapping| mapping.target_port == target_port);
            here.filter_map(move |mapping| Some(service?.port(mapping.service_port)?.protocol))
        });
        declared.fold(AppProtocol::Unknown, |known, next| {
            let keeps = known.is_http() || (known != AppProtocol::Unknown && !next.is_http());
            if keeps { known } else { next }
        })
    }

    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.model.workloads.values()
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.model.services.values()
    }

    pub fn policies(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        self.model.policies.values()
    }
}

/// A host, then the wildcards that stand for it, the longest first.
fn names_of(host: &str) -> impl Iterator<Item = String> + '_ {
    let wildcards = host.match_indices('.').map(|(at, _)| format!("*{}", &host[at..]));
    std::iter::once(host.to_owned()).chain(wildcards)
}

/// The model as its single writer holds it.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub workloads: BTreeMap<WorkloadUid, Arc<Workload>>,
    pub services: BTreeMap<ServiceKey, Arc<Service>>,
    pub policies: BTreeMap<PolicyKey, Arc<Authorization>>,
    pub routes: BTreeMap<RoutesKey, Arc<Routes>>,
    pub traffic: BTreeMap<TrafficKey, Arc<TrafficRule>>,
    pub http: Arc<HttpSettings>,
    pub telemetry: BTreeMap<TelemetryKey, Arc<Telemetry>>,
    pub mesh: Mesh,
}

impl Model {
    pub fn upsert_workload(&mut self, workload: Workload) {
        self.workloads.insert(workload.uid.clone(), Arc::new(workload));
    }

    pub fn upsert_service(&mut self, service: Service) {
        self.services.insert(service.key(), Arc::new(service));
    }

    pub fn upsert_policy(&mut self, policy: Authorization) {
        self.policies.insert(policy.key.clone(), Arc::new(policy));
    }

    pub fn upsert_document(&mut self, document: Document) {
        match document {
            Document::Routes(routes) => drop(self.routes.insert(routes.key.clone(), Arc::from(routes))),
            Document::Traffic(rule) => drop(self.traffic.insert(rule.key.clone(), Arc::from(rule))),
            Document::HttpSettings(settings) => self.http = Arc::from(settings),
            Document::Telemetry(telemetry) => drop(self.telemetry.insert(telemetry.key.clone(), Arc::from(telemetry))),
        }
    }

    pub fn remove_document(&mut self, key: &DocumentKey) {
        match key {
            DocumentKey::Routes(key) => drop(self.routes.remove(key)),
            DocumentKey::Traffic(key) => drop(self.traffic.remove(key)),
            DocumentKey::HttpSettings => self.http = Arc::default(),
            DocumentKey::Telemetry(key) => drop(self.telemetry.remove(key)),
        }
    }

    /// The parts of the model that travel as [`Document`]s.
    pub fn documents(&self) -> impl Iterator<Item = Document> + '_ {
        let routes = self.routes.values().map(|routes| Document::Routes(Box::new((**routes).clone())));
        let traffic = self.traffic.values().map(|rule| Document::Traffic(Box::new((**rule).clone())));
        let telemetry = self.telemetry.values().map(|telemetry| Document::Telemetry(Box::new((**telemetry).clone())));
        routes.chain(traffic).chain(telemetry).chain([Document::HttpSettings(Box::new((*self.http).clone()))])
    }

    /// Indexes the present state. Where two objects claim one address, the first by key keeps it, so that the same
    /// objects always give the same snapshot.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot_after(&Snapshot::default())
    }

    /// The next snapshot, to which the pools go over, with all that they have built, whose service, endpoints and
    /// DestinationRules are the same as in the previous one.
    pub fn snapshot_after(&self, previous: &Snapshot) -> Snapshot {
        let changed = self.services_with_other_traffic(&previous.model);
        let mut snapshot = Snapshot { model: self.clone(), ..Snapshot::default() };
        let mut endpoints: HashMap<ServiceKey, Vec<Endpoint>> = HashMap::new();
        for workload in self.workloads.values() {
            match workload.network_mode {
                NetworkMode::Standard => {
                    for address in &workload.addresses {
                        snapshot.by_address.entry(*address).or_insert_with(|| workload.clone());
                    }
                }
                NetworkMode::HostNetwork => snapshot.node_addresses.extend(&workload.addresses),
            }
            for service in workload.services.keys() {
                let endpoint = Endpoint { workload: workload.clone(), service: service.clone() };
                endpoints.entry(service.clone()).or_default().push(endpoint);
            }
        }
        snapshot.endpoints = endpoints.into_iter().map(|(key, list)| (key, list.into())).collect();
        for service in self.services.values() {
            let key = service.key();
            let behind = snapshot.endpoints.get(&key).cloned().unwrap_or_default();
            let kept = previous.pools.get(&key).filter(|pool| pool.holds(service, &behind) && !changed.contains(&key));
            let pool = match kept {
                Some(pool) => {
                    snapshot.endpoints.insert(key.clone(), pool.endpoints().clone());
                    pool.clone()
                }
                None => Pool::new(service.clone(), behind),
            };
            snapshot.pools.insert(key, pool);
            if service.is_entry() {
                for port in &service.ports {
                    snapshot.entries.entry(port.service_port).or_default().push(service.clone());
                }
            }
            for address in &service.addresses {
                if address.range.prefix_len() == address.range.max_prefix_len() {
                    snapshot.by_virtual_address.entry(address.range.addr()).or_insert_with(|| service.clone());
                } else {
                    snapshot.ranges.push((address.range, service.clone()));
                }
            }
        }
        for telemetry in self.telemetry.values() {
            if let TelemetryKey::Object { namespace, name: _ } = &telemetry.key {
                snapshot.narrow_telemetry.entry(namespace.clone()).or_default().push(telemetry.clone());
            }
        }
        for narrow in snapshot.narrow_telemetry.values_mut() {
            narrow.sort_by_key(|telemetry| telemetry.order);
        }
        snapshot.ranges.sort_by_key(|(range, _)| std::cmp::Reverse(range.prefix_len()));
        for policy in self.policies.values() {
            match policy.scope {
                Scope::Global => snapshot.global_policies.push(policy.clone()),
                Scope::Namespace => {
                    snapshot.namespace_policies.entry(policy.key.namespace.clone()).or_default().push(policy.clone());
                }
                Scope::Workload => {}
            }
        }
        snapshot
    }

    /// The services whose DestinationRules are not the same objects as in another model.
    fn services_with_other_traffic<'a>(&'a self, other: &'a Self) -> HashSet<&'a ServiceKey> {
        let differing = |one: &'a Self, other: &'a Self| {
            let is_other = |(key, rule): &(&TrafficKey, &Arc<TrafficRule>)| {
                other.traffic.get(key).is_none_or(|same| !Arc::ptr_eq(same, rule))
            };
            one.traffic.iter().filter(is_other).map(|(key, _)| &key.service).collect::<Vec<_>>()
        };
        differing(self, other).into_iter().chain(differing(other, self)).collect()
    }
}
