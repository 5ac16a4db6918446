//! One instance of an application: a pod, a VM, or an address that a ServiceEntry names.
//!
//! The fields are those of `istio.workload.Workload` that a node acts on or reports.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use super::{Identity, PolicyKey, ServiceKey, TrustDomain};

/// `cluster/group/kind/namespace/name[/section]`: unique and stable over a workload's life.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadUid(pub Arc<str>);

impl fmt::Display for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_field_names, reason = "the names of the wire format")]
pub struct Workload {
    pub uid: WorkloadUid,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    /// Empty for a workload known by `hostname` alone.
    pub addresses: Vec<IpAddr>,
    pub hostname: Arc<str>,
    pub network: Arc<str>,
    pub network_mode: NetworkMode,
    /// How the workload is reached; HBONE only while its node reports that the capture stands.
    pub tunnel: TunnelProtocol,
    pub trust_domain: TrustDomain,
    pub service_account: Arc<str>,
    pub node: Arc<str>,
    pub cluster: Arc<str>,
    pub canonical_name: Arc<str>,
    pub canonical_revision: Arc<str>,
    pub kind: WorkloadKind,
    /// Name of the owner (Deployment, Job …); the pod's own for a bare pod.
    pub workload_name: Arc<str>,
    /// Policies that select this workload; namespace-wide and mesh-wide ones are found by scope.
    pub policies: Vec<PolicyKey>,
    pub health: Health,
    pub locality: Locality,
    /// Relative share of load, at least 1.
    pub capacity: u32,
    /// Those of the workload's labels that a route, subset or priority of the mesh speaks of.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// The services that this workload is an endpoint of, with the ports that it serves them on.
    pub services: BTreeMap<ServiceKey, Vec<PortMapping>>,
}

impl Workload {
    pub fn identity(&self) -> Identity {
        Identity {
            trust_domain: self.trust_domain.clone(),
            namespace: self.namespace.clone(),
            service_account: self.service_account.clone(),
        }
    }

    /// The address of the wanted family, else any.
    pub fn address_like(&self, wanted: IpAddr) -> Option<IpAddr> {
        let same_family = |address: &&IpAddr| address.is_ipv4() == wanted.is_ipv4();
        self.addresses.iter().find(same_family).or(self.addresses.first()).copied()
    }

    /// Where this workload serves a service's port, if it does.
    pub fn target_port(&self, service: &ServiceKey, service_port: u16) -> Option<u16> {
        let mapping = self.services.get(service)?.iter().find(|mapping| mapping.service_port == service_port)?;
        (mapping.target_port != 0).then_some(mapping.target_port)
    }
}

/// `service_port` of a service is served on `target_port` of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortMapping {
    pub service_port: u16,
    pub target_port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TunnelProtocol {
    /// Reached in plain TCP.
    #[default]
    None,
    /// Reached by HTTP/2 CONNECT over mutual TLS on port 15008 of its own address.
    Hbone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NetworkMode {
    #[default]
    Standard,
    /// Shares its node's address: never found by address.
    HostNetwork,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Health {
    #[default]
    Healthy,
    Unhealthy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WorkloadKind {
    Deployment,
    CronJob,
    #[default]
    Pod,
    Job,
}

impl WorkloadKind {
    /// As it stands in `baggage` (`k8s.<kind>.name`).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::CronJob => "cronjob",
            Self::Pod => "pod",
            Self::Job => "job",
        }
    }
}

/// Empty parts are unknown.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub subzone: Arc<str>,
}
