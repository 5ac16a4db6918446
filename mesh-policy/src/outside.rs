//! Connections to addresses that nobody of the mesh has, on ports that ServiceEntries declare.
//!
//! Most ServiceEntries have no address: an application looks a name up by itself and dials what it finds. What the connection
//! says then tells which entry is meant: its requests' hosts on a port of HTTP, the server name of its ClientHello on one of
//! TLS; on one of TCP the port alone, for an entry without addresses. A name that no entry stands for is a matter of
//! `outboundTrafficPolicy`, as is every port that none declares.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    destination::Refusal,
    model::{AppProtocol, OutboundPolicy, Service, Snapshot, Workload},
};

/// What has to be known of a connection before it can be said where it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The hosts of its requests.
    pub host: bool,
    /// The server name of its ClientHello.
    pub server_name: bool,
    /// Its port alone may say it, too.
    pub port: bool,
}

/// Whether an address, without port, is nobody's: no workload's or service's that the client knows, and outside the mesh's
/// prefixes, unless it is a node's.
pub fn is_outside(snapshot: &Snapshot, source: &Workload, address: std::net::IpAddr) -> bool {
    let service = snapshot.service_at(address);
    let workload = snapshot.workload_at(address).filter(|workload| workload.network == source.network);
    match (service, workload) {
        (_, Some(_)) => false,
        (Some(service), None) => !service.exports.include(&source.namespace),
        (None, None) => !snapshot.mesh().contains(address) || snapshot.is_node_address(address),
    }
}

/// The ServiceEntries on a port that a client knows.
fn known<'a>(snapshot: &'a Snapshot, source: &'a Workload, port: u16) -> impl Iterator<Item = (&'a Arc<Service>, AppProtocol)> {
    let entries = snapshot.entries_at(port).iter().filter(|entry| entry.exports.include(&source.namespace));
    entries.filter_map(move |entry| Some((entry, entry.port(port)?.protocol)))
}

/// What the entries on a port are told apart by.
pub fn asked(snapshot: &Snapshot, source: &Workload, port: u16) -> Asked {
    let enabled = snapshot.http().enabled;
    known(snapshot, source, port).fold(Asked::default(), |asked, (entry, protocol)| match protocol {
        AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc => Asked { host: asked.host || enabled, ..asked },
        AppProtocol::Tls => Asked { server_name: true, ..asked },
        AppProtocol::Tcp => Asked { port: asked.port || entry.addresses.is_empty(), ..asked },
        AppProtocol::Unknown => Asked { host: asked.host || enabled, server_name: true, port: true },
    })
}

/// The entry that a request's host names (in lower case, without port) on a port.
pub fn by_host<'a>(snapshot: &'a Snapshot, source: &'a Workload, port: u16, host: &str) -> Option<&'a Arc<Service>> {
    let speaks = |protocol: AppProtocol| protocol.is_http() || protocol == AppProtocol::Unknown;
    named(known(snapshot, source, port).filter(|(_, protocol)| speaks(*protocol)).map(|(entry, _)| entry), source, host)
}

/// The entry that a ClientHello's server name names on a port.
pub fn by_server_name<'a>(snapshot: &'a Snapshot, source: &'a Workload, port: u16, name: &str) -> Option<&'a Arc<Service>> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let speaks = |protocol: AppProtocol| matches!(protocol, AppProtocol::Tls | AppProtocol::Unknown);
    named(known(snapshot, source, port).filter(|(_, protocol)| speaks(*protocol)).map(|(entry, _)| entry), source, &name)
}

/// The entry that a port is enough for: one of TCP, or of no declared protocol, that has no address to be known by.
pub fn by_port<'a>(snapshot: &'a Snapshot, source: &'a Workload, port: u16) -> Option<&'a Arc<Service>> {
    let alone = |(entry, protocol): &(&Arc<Service>, AppProtocol)| {
        entry.addresses.is_empty() && matches!(protocol, AppProtocol::Tcp | AppProtocol::Unknown)
    };
    let entries = known(snapshot, source, port).filter(alone).map(|(entry, _)| entry);
    entries.min_by_key(|entry| entry.namespace != source.namespace)
}

/// The entry of whatever port that stands for a host; for who asks by name alone.
pub fn by_name<'a>(snapshot: &'a Snapshot, source: &'a Workload, host: &str) -> Option<&'a Arc<Service>> {
    let entries = snapshot.services().filter(|entry| entry.is_entry() && entry.exports.include(&source.namespace));
    named(entries, source, host)
}

/// The exact name before the longest wildcard; of equals the one of the client's namespace, then the first by key.
fn named<'a>(entries: impl Iterator<Item = &'a Arc<Service>>, source: &Workload, host: &str) -> Option<&'a Arc<Service>> {
    let rank = |entry: &Arc<Service>| (exactness(&entry.hostname, host), entry.namespace == source.namespace);
    let standing = entries.filter(|entry| exactness(&entry.hostname, host).is_some());
    // Of equals the first, where `max_by_key` would take the last.
    standing.reduce(|best, next| if rank(next) > rank(best) { next } else { best })
}

/// How exactly a hostname, which may begin with `*.`, names a host; None: not at all.
fn exactness(hostname: &str, host: &str) -> Option<usize> {
    match hostname.strip_prefix('*') {
        Some(suffix) => (host.len() > suffix.len() && ends_with(host, suffix)).then_some(hostname.len()),
        None => hostname.eq_ignore_ascii_case(host).then_some(usize::MAX),
    }
}

fn ends_with(host: &str, suffix: &str) -> bool {
    host.len().checked_sub(suffix.len()).and_then(|at| host.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}

/// What `outboundTrafficPolicy` says of what no entry stands for.
pub fn unnamed(snapshot: &Snapshot) -> Result<(), Refusal> {
    match snapshot.mesh().outbound_policy {
        OutboundPolicy::AllowAny => Ok(()),
        OutboundPolicy::RegistryOnly => Err(Refusal::RegistryOnly),
    }
}

/// Whether a connection's server name must be known before [`plan`](crate::destination::plan) can say where it goes.
pub(crate) fn waits_for_a_name(snapshot: &Snapshot, source: &Workload, dialled: SocketAddr) -> bool {
    asked(snapshot, source, dialled.port()).server_name
}

#[cfg(test)]
mod tests;
