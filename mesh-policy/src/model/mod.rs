//! Workloads, services, policies and identities as the data path understands them, whatever they came from.
//!
//! Kubernetes objects, a folder of the same YAML and istiod's wire format all end here. A value of these types is
//! right by construction: what could not be understood was refused, or marked, at the edge.

mod identity;
mod mesh;
mod policy;
mod service;
mod snapshot;
mod workload;

pub use identity::{Identity, ParseIdentityError, TrustDomain};
pub use mesh::{Mesh, OutboundPolicy};
pub use policy::{Action, Authorization, Clause, IpMatch, Match, PolicyKey, Rule, Scope, ServiceAccountMatch, StringMatch};
pub use service::{
    AppProtocol, HealthPolicy, LoadBalancing, RoutingMode, RoutingScope, Service, ServiceKey, ServicePort, VirtualAddress,
};
pub use snapshot::{Endpoint, Model, Snapshot};
pub use workload::{Health, Locality, NetworkMode, PortMapping, TunnelProtocol, Workload, WorkloadKind, WorkloadUid};
