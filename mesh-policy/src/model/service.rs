//! A name with virtual addresses and ports, behind which workloads stand.

use std::{collections::BTreeSet, fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// `namespace/hostname`, such as `shop/reviews.shop.svc.cluster.local`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceKey {
    pub namespace: Arc<str>,
    pub hostname: Arc<str>,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub hostname: Arc<str>,
    pub addresses: Vec<VirtualAddress>,
    pub ports: Vec<ServicePort>,
    /// SPIFFE identities (as URI) that an endpoint may have instead of its own, if any are named.
    pub subject_alt_names: Vec<Arc<str>>,
    pub load_balancing: LoadBalancing,
    pub exports: Exports,
}

/// Whose clients know a service.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Exports {
    #[default]
    Everywhere,
    /// Those of these namespaces alone: for all others it is as if there were none.
    To(BTreeSet<Arc<str>>),
}

impl Exports {
    pub fn include(&self, namespace: &str) -> bool {
        match self {
            Self::Everywhere => true,
            Self::To(namespaces) => namespaces.contains(namespace),
        }
    }
}

impl Service {
    pub fn key(&self) -> ServiceKey {
        ServiceKey { namespace: self.namespace.clone(), hostname: self.hostname.clone() }
    }

    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.service_port == number)
    }

    /// Whether it came from a ServiceEntry: a Kubernetes Service's hostname begins with its name and namespace.
    pub fn is_entry(&self) -> bool {
        let rest = self.hostname.strip_prefix(&*self.name).and_then(|rest| rest.strip_prefix('.'));
        let rest = rest.and_then(|rest| rest.strip_prefix(&*self.namespace));
        !rest.is_some_and(|rest| rest.starts_with(".svc"))
    }
}

/// An address (or, for a ServiceEntry, a range) on a network; the empty network is the local one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualAddress {
    pub network: Arc<str>,
    pub range: IpNet,
}

impl VirtualAddress {
    pub fn host(address: IpAddr) -> Self {
        Self { network: "".into(), range: IpNet::from(address) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_field_names, reason = "the names of the wire format")]
pub struct ServicePort {
    pub service_port: u16,
    /// Zero: each endpoint maps the port itself (a named target port).
    pub target_port: u16,
    pub protocol: AppProtocol,
}

/// What a port was declared to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AppProtocol {
    #[default]
    Unknown,
    Http11,
    Http2,
    Grpc,
    Tcp,
    Tls,
}

impl AppProtocol {
    /// Whether requests can be told apart.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http11 | Self::Http2 | Self::Grpc)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LoadBalancing {
    pub mode: RoutingMode,
    /// Scopes that an endpoint should share with the client, most general first (`Region, Zone` = same region, then
    /// same zone preferred within it).
    pub preference: Vec<RoutingScope>,
    pub health: HealthPolicy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RoutingMode {
    /// All endpoints alike.
    #[default]
    Unspecified,
    /// Only endpoints that share every scope of the preference.
    Strict,
    /// Endpoints that share more of the preference first, others when there is none.
    Failover,
    /// To the address that the client dialled (ServiceEntry resolution NONE).
    Passthrough,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoutingScope {
    Network,
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HealthPolicy {
    #[default]
    OnlyHealthy,
    /// Unready endpoints count too (`publishNotReadyAddresses`).
    AllowAll,
}
