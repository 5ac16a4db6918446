//! The ends of a call: names and addresses as people write them, found in a model.

use std::{net::IpAddr, sync::Arc};

use anyhow::{Context, Result, anyhow, bail};
use mesh_policy::{
    explain::{ANY_OUTSIDE, resolve},
    model::{AppProtocol, Service, Snapshot, Workload},
};

/// So many names are proposed where one is not found.
const PROPOSALS: usize = 8;

/// Where a call goes.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// As the client calls it.
    pub(super) host: String,
    /// The port in the client's authority: the service's, also where the endpoints' is dialled.
    pub(super) host_port: u16,
    pub(super) protocol: AppProtocol,
}

/// The workload that a text names: a pod, the first endpoint of a service, or the owner of an address.
pub(super) fn source(snapshot: &Snapshot, text: &str) -> Result<Arc<Workload>> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return snapshot.workload_at(address).cloned().with_context(|| format!("no workload has the address {address}"));
    }
    if let Some(workload) = text.split_once('/').and_then(|(namespace, name)| workload(snapshot, namespace, name)) {
        return Ok(workload.clone());
    }
    let service = service(snapshot, text).ok_or_else(|| nothing(snapshot, text))?;
    let endpoints = snapshot.endpoints(&service.key());
    let first = endpoints.first().with_context(|| format!("the service {text} has no endpoint that could call"))?;
    Ok(first.workload.clone())
}

/// What a text names to a client: a service, a pod, a host of the client's resolver, or an address.
pub(super) fn target(snapshot: &Snapshot, source: &Workload, text: &str, port: Option<u16>) -> Result<Place> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return at_address(snapshot, address, port);
    }
    if let Some((namespace, name)) = text.split_once('/') {
        let service = snapshot.services().find(|service| *service.namespace == *namespace && *service.name == *name);
        return match (service, workload(snapshot, namespace, name)) {
            (Some(service), _) => to_service(snapshot, service, &service.hostname, port),
            (None, Some(workload)) => to_workload(snapshot, workload, port),
            (None, None) => Err(nothing(snapshot, text)),
        };
    }
    let Some(address) = resolve(snapshot, source, text) else {
        bail!(
            "no service is called {text} for clients in {}; what lies outside the mesh is asked for by address",
            source.namespace
        )
    };
    let entry = || mesh_policy::outside::by_name(snapshot, source, text).filter(|_| address == ANY_OUTSIDE);
    let of_address = snapshot.service_at(address).or_else(entry);
    let behind = || snapshot.services().find(|service| mesh_policy::binding::names(text, service, &source.namespace));
    match of_address.or_else(behind) {
        Some(service) => to_service(snapshot, service, text, port),
        None => at_address(snapshot, address, port),
    }
}

fn to_service(snapshot: &Snapshot, service: &Service, host: &str, port: Option<u16>) -> Result<Place> {
    let (key, name) = (service.key(), format!("{}/{}", service.namespace, service.name));
    let named = port.or_else(|| default_port(service)).with_context(|| format!("{name} has no port; --port says one"))?;
    let protocol = service.port(named).map(|port| port.protocol).unwrap_or_default();
    let place = |address, port| Place { address, port, host: host.to_owned(), host_port: named, protocol };
    if let Some(own) = service.addresses.first() {
        return Ok(place(own.range.addr(), named));
    }
    if service.is_entry() {
        return Ok(place(ANY_OUTSIDE, named));
    }
    let mut endpoints = snapshot.endpoints(&key).iter().map(|endpoint| &endpoint.workload);
    let endpoint = endpoints.find(|workload| !workload.addresses.is_empty());
    let endpoint = endpoint.with_context(|| format!("{name} has neither an address nor an endpoint with one"))?;
    let port = endpoint.target_port(&key, named).unwrap_or(named);
    Ok(place(endpoint.addresses[0], port))
}

fn to_workload(snapshot: &Snapshot, workload: &Workload, port: Option<u16>) -> Result<Place> {
    let name = format!("{}/{}", workload.namespace, workload.name);
    let address = *workload.addresses.first().with_context(|| format!("{name} has no address"))?;
    let served = || workload.services.values().flatten().map(|mapping| mapping.target_port).filter(|port| *port != 0);
    let http = || served().find(|port| snapshot.protocol_at(workload, *port).is_http());
    let port = port.or_else(http).or_else(|| served().next());
    let port = port.with_context(|| format!("{name} serves nothing that the mesh knows; --port says a port"))?;
    let protocol = snapshot.protocol_at(workload, port);
    Ok(Place { address, port, host: host_of(address), host_port: port, protocol })
}

fn at_address(snapshot: &Snapshot, address: IpAddr, port: Option<u16>) -> Result<Place> {
    if let Some(service) = snapshot.service_at(address) {
        let place = to_service(snapshot, service, &host_of(address), port)?;
        return Ok(Place { address, port: place.host_port, ..place });
    }
    if let Some(workload) = snapshot.workload_at(address) {
        return Ok(Place { address, ..to_workload(snapshot, workload, port)? });
    }
    let port = port.unwrap_or(80);
    Ok(Place { address, port, host: host_of(address), host_port: port, protocol: AppProtocol::Unknown })
}

fn host_of(address: IpAddr) -> String {
    if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }
}

/// The only or first HTTP port, else the first.
fn default_port(service: &Service) -> Option<u16> {
    let http = service.ports.iter().find(|port| port.protocol.is_http());
    http.or(service.ports.first()).map(|port| port.service_port)
}

/// By its own name; else by that of its application or owner, or by the beginning that an owner gives its pods' names.
fn workload<'a>(snapshot: &'a Snapshot, namespace: &str, name: &str) -> Option<&'a Arc<Workload>> {
    let here = || snapshot.workloads().filter(|workload| *workload.namespace == *namespace);
    let is_owned = |workload: &&Arc<Workload>| {
        *workload.workload_name == *name || workload.name.strip_prefix(name).is_some_and(|rest| rest == "-0")
    };
    let is_of_application = |workload: &&Arc<Workload>| *workload.canonical_name == *name;
    here().find(|workload| *workload.name == *name).or_else(|| here().find(is_owned)).or_else(|| here().find(is_of_application))
}

/// A service by `NAMESPACE/NAME`, host name, or a name that only one has.
pub(crate) fn service<'a>(snapshot: &'a Snapshot, text: &str) -> Option<&'a Arc<Service>> {
    if let Some((namespace, name)) = text.split_once('/') {
        let is =
            |service: &&Arc<Service>| *service.namespace == *namespace && (*service.name == *name || *service.hostname == *name);
        return snapshot.services().find(is);
    }
    let by_host = snapshot.services().find(|service| mesh_policy::binding::names(text, service, ""));
    let mut by_name = snapshot.services().filter(|service| *service.name == *text);
    by_host.or_else(|| by_name.next().filter(|_| by_name.next().is_none()))
}

/// That nothing has a name, and what the namespace has.
pub(crate) fn nothing(snapshot: &Snapshot, text: &str) -> anyhow::Error {
    let Some((namespace, _)) = text.split_once('/') else {
        return anyhow!(
            "nothing is called {text:?}: NAMESPACE/NAME of a pod or service, the host name of a service, or an address"
        );
    };
    let services = snapshot.services().filter(|service| *service.namespace == *namespace).map(|service| service.name.clone());
    let workloads = snapshot.workloads().filter(|workload| *workload.namespace == *namespace);
    let mut known: Vec<_> = services.chain(workloads.map(|workload| workload.name.clone())).collect();
    known.sort();
    known.dedup();
    match known.len() {
        0 => anyhow!("no pod or service {text}: the namespace {namespace} has none at all"),
        all => {
            let more = if all > PROPOSALS { format!(" and {} more", all - PROPOSALS) } else { String::new() };
            known.truncate(PROPOSALS);
            anyhow!("no pod or service {text}: {namespace} has {}{more}", known.join(", "))
        }
    }
}
