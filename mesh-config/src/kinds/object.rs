//! Names, the closed list of kinds, and all objects at one moment.

use std::{collections::BTreeMap, fmt, sync::Arc};

use k8s_openapi::api::{
    core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};

use super::gateway::{GATEWAY_GROUP, Gateway, GatewayClass, GrpcRoute, HttpRoute, ReferenceGrant, TcpRoute, TlsRoute};
use super::{AuthorizationPolicy, DestinationRule, PeerAuthentication, ServiceEntry, Telemetry, VirtualService, WorkloadEntry};

/// A kind that is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Namespace,
    Node,
    ServiceAccount,
    ConfigMap,
    Pod,
    Service,
    EndpointSlice,
    ServiceEntry,
    WorkloadEntry,
    AuthorizationPolicy,
    PeerAuthentication,
    VirtualService,
    DestinationRule,
    Telemetry,
    /// Of the Gateway API.
    Gateway,
    GatewayClass,
    HttpRoute,
    GrpcRoute,
    TcpRoute,
    TlsRoute,
    ReferenceGrant,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::ServiceAccount => "ServiceAccount",
            Self::ConfigMap => "ConfigMap",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::Telemetry => "Telemetry",
            Self::Gateway => "Gateway",
            Self::GatewayClass => "GatewayClass",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::ReferenceGrant => "ReferenceGrant",
        }
    }

    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node | Self::GatewayClass)
    }

    /// Whether the kind says who may speak to whom: then nothing of it may be passed over.
    pub fn is_policy(self) -> bool {
        matches!(self, Self::AuthorizationPolicy | Self::PeerAuthentication | Self::ReferenceGrant)
    }

    /// Whether users expect a status, as they find it on the kinds of Istio.
    pub fn has_status(self) -> bool {
        match self {
            Self::Namespace
            | Self::Node
            | Self::ServiceAccount
            | Self::ConfigMap
            | Self::Pod
            | Self::Service
            | Self::EndpointSlice => false,
            Self::ServiceEntry
            | Self::WorkloadEntry
            | Self::AuthorizationPolicy
            | Self::PeerAuthentication
            | Self::VirtualService
            | Self::DestinationRule
            | Self::Telemetry
            | Self::Gateway
            | Self::GatewayClass
            | Self::HttpRoute
            | Self::GrpcRoute
            | Self::TcpRoute
            | Self::TlsRoute
            | Self::ReferenceGrant => true,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an `apiVersion` and `kind` stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recognised {
    Known(Kind),
    /// Users expect this kind of a mesh, and this version does not carry it out.
    Unsupported,
    /// No business of the mesh.
    Foreign,
}

/// Judges `apiVersion` and `kind`.
pub fn recognise(api_version: &str, kind: &str) -> Recognised {
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let known = match (group, kind) {
        ("", "Namespace") => Kind::Namespace,
        ("", "Node") => Kind::Node,
        ("", "ServiceAccount") => Kind::ServiceAccount,
        ("", "ConfigMap") => Kind::ConfigMap,
        ("", "Pod") => Kind::Pod,
        ("", "Service") => Kind::Service,
        ("discovery.k8s.io", "EndpointSlice") => Kind::EndpointSlice,
        ("networking.istio.io", "ServiceEntry") => Kind::ServiceEntry,
        ("networking.istio.io", "WorkloadEntry") => Kind::WorkloadEntry,
        ("security.istio.io", "AuthorizationPolicy") => Kind::AuthorizationPolicy,
        ("security.istio.io", "PeerAuthentication") => Kind::PeerAuthentication,
        ("networking.istio.io", "VirtualService") => Kind::VirtualService,
        ("networking.istio.io", "DestinationRule") => Kind::DestinationRule,
        ("telemetry.istio.io", "Telemetry") => Kind::Telemetry,
        (GATEWAY_GROUP, "Gateway") => Kind::Gateway,
        (GATEWAY_GROUP, "GatewayClass") => Kind::GatewayClass,
        (GATEWAY_GROUP, "HTTPRoute") => Kind::HttpRoute,
        (GATEWAY_GROUP, "GRPCRoute") => Kind::GrpcRoute,
        (GATEWAY_GROUP, "TCPRoute") => Kind::TcpRoute,
        (GATEWAY_GROUP, "TLSRoute") => Kind::TlsRoute,
        (GATEWAY_GROUP, "ReferenceGrant") => Kind::ReferenceGrant,
        _ if group.ends_with(".istio.io") || group.starts_with("gateway.networking.") => return Recognised::Unsupported,
        _ => return Recognised::Foreign,
    };
    Recognised::Known(known)
}

/// Namespace and name; the namespace is empty for cluster-scoped kinds. Ordered by namespace, then name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Name {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// An object by kind and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub kind: Kind,
    pub name: Name,
}

impl ObjectKey {
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, name: Name::new(namespace, name) }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.name.namespace {
            "" => write!(f, "{} {}", self.kind, self.name.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name.name),
        }
    }
}

/// One object of any kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Namespace(Arc<Namespace>),
    Node(Arc<Node>),
    ServiceAccount(Arc<ServiceAccount>),
    ConfigMap(Arc<ConfigMap>),
    Pod(Arc<Pod>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    ServiceEntry(Arc<ServiceEntry>),
    WorkloadEntry(Arc<WorkloadEntry>),
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    PeerAuthentication(Arc<PeerAuthentication>),
    VirtualService(Arc<VirtualService>),
    DestinationRule(Arc<DestinationRule>),
    Telemetry(Arc<Telemetry>),
    Gateway(Arc<Gateway>),
    GatewayClass(Arc<GatewayClass>),
    HttpRoute(Arc<HttpRoute>),
    GrpcRoute(Arc<GrpcRoute>),
    TcpRoute(Arc<TcpRoute>),
    TlsRoute(Arc<TlsRoute>),
    ReferenceGrant(Arc<ReferenceGrant>),
}

/// Every object at one moment, by kind and name.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub namespaces: BTreeMap<Name, Arc<Namespace>>,
    pub nodes: BTreeMap<Name, Arc<Node>>,
    pub service_accounts: BTreeMap<Name, Arc<ServiceAccount>>,
    pub config_maps: BTreeMap<Name, Arc<ConfigMap>>,
    pub pods: BTreeMap<Name, Arc<Pod>>,
    pub services: BTreeMap<Name, Arc<Service>>,
    pub endpoint_slices: BTreeMap<Name, Arc<EndpointSlice>>,
    pub service_entries: BTreeMap<Name, Arc<ServiceEntry>>,
    pub workload_entries: BTreeMap<Name, Arc<WorkloadEntry>>,
    pub authorization_policies: BTreeMap<Name, Arc<AuthorizationPolicy>>,
    pub peer_authentications: BTreeMap<Name, Arc<PeerAuthentication>>,
    pub virtual_services: BTreeMap<Name, Arc<VirtualService>>,
    pub destination_rules: BTreeMap<Name, Arc<DestinationRule>>,
    pub telemetries: BTreeMap<Name, Arc<Telemetry>>,
    pub gateways: BTreeMap<Name, Arc<Gateway>>,
    pub gateway_classes: BTreeMap<Name, Arc<GatewayClass>>,
    pub http_routes: BTreeMap<Name, Arc<HttpRoute>>,
    pub grpc_routes: BTreeMap<Name, Arc<GrpcRoute>>,
    pub tcp_routes: BTreeMap<Name, Arc<TcpRoute>>,
    pub tls_routes: BTreeMap<Name, Arc<TlsRoute>>,
    pub reference_grants: BTreeMap<Name, Arc<ReferenceGrant>>,
}

impl Objects {
    pub fn insert(&mut self, name: Name, object: Object) {
        match object {
            Object::Namespace(object) => drop(self.namespaces.insert(name, object)),
            Object::Node(object) => drop(self.nodes.insert(name, object)),
            Object::ServiceAccount(object) => drop(self.service_accounts.insert(name, object)),
            Object::ConfigMap(object) => drop(self.config_maps.insert(name, object)),
            Object::Pod(object) => drop(self.pods.insert(name, object)),
            Object::Service(object) => drop(self.services.insert(name, object)),
            Object::EndpointSlice(object) => drop(self.endpoint_slices.insert(name, object)),
            Object::ServiceEntry(object) => drop(self.service_entries.insert(name, object)),
            Object::WorkloadEntry(object) => drop(self.workload_entries.insert(name, object)),
            Object::AuthorizationPolicy(object) => drop(self.authorization_policies.insert(name, object)),
            Object::PeerAuthentication(object) => drop(self.peer_authentications.insert(name, object)),
            Object::VirtualService(object) => drop(self.virtual_services.insert(name, object)),
            Object::DestinationRule(object) => drop(self.destination_rules.insert(name, object)),
            Object::Telemetry(object) => drop(self.telemetries.insert(name, object)),
            Object::Gateway(object) => drop(self.gateways.insert(name, object)),
            Object::GatewayClass(object) => drop(self.gateway_classes.insert(name, object)),
            Object::HttpRoute(object) => drop(self.http_routes.insert(name, object)),
            Object::GrpcRoute(object) => drop(self.grpc_routes.insert(name, object)),
            Object::TcpRoute(object) => drop(self.tcp_routes.insert(name, object)),
            Object::TlsRoute(object) => drop(self.tls_routes.insert(name, object)),
            Object::ReferenceGrant(object) => drop(self.reference_grants.insert(name, object)),
        }
    }

    /// Whether the object of this kind and name is there and equal to this one.
    pub fn holds(&self, name: &Name, object: &Object) -> bool {
        match object {
            Object::Namespace(object) => self.namespaces.get(name) == Some(object),
            Object::Node(object) => self.nodes.get(name) == Some(object),
            Object::ServiceAccount(object) => self.service_accounts.get(name) == Some(object),
            Object::ConfigMap(object) => self.config_maps.get(name) == Some(object),
            Object::Pod(object) => self.pods.get(name) == Some(object),
            Object::Service(object) => self.services.get(name) == Some(object),
            Object::EndpointSlice(object) => self.endpoint_slices.get(name) == Some(object),
            Object::ServiceEntry(object) => self.service_entries.get(name) == Some(object),
            Object::WorkloadEntry(object) => self.workload_entries.get(name) == Some(object),
            Object::AuthorizationPolicy(object) => self.authorization_policies.get(name) == Some(object),
            Object::PeerAuthentication(object) => self.peer_authentications.get(name) == Some(object),
            Object::VirtualService(object) => self.virtual_services.get(name) == Some(object),
            Object::DestinationRule(object) => self.destination_rules.get(name) == Some(object),
            Object::Telemetry(object) => self.telemetries.get(name) == Some(object),
            Object::Gateway(object) => self.gateways.get(name) == Some(object),
            Object::GatewayClass(object) => self.gateway_classes.get(name) == Some(object),
            Object::HttpRoute(object) => self.http_routes.get(name) == Some(object),
            Object::GrpcRoute(object) => self.grpc_routes.get(name) == Some(object),
            Object::TcpRoute(object) => self.tcp_routes.get(name) == Some(object),
            Object::TlsRoute(object) => self.tls_routes.get(name) == Some(object),
            Object::ReferenceGrant(object) => self.reference_grants.get(name) == Some(object),
        }
    }

    pub fn remove(&mut self, key: &ObjectKey) {
        let name = &key.name;
        match key.kind {
            Kind::Namespace => drop(self.namespaces.remove(name)),
            Kind::Node => drop(self.nodes.remove(name)),
            Kind::ServiceAccount => drop(self.service_accounts.remove(name)),
            Kind::ConfigMap => drop(self.config_maps.remove(name)),
            Kind::Pod => drop(self.pods.remove(name)),
            Kind::Service => drop(self.services.remove(name)),
            Kind::EndpointSlice => drop(self.endpoint_slices.remove(name)),
            Kind::ServiceEntry => drop(self.service_entries.remove(name)),
            Kind::WorkloadEntry => drop(self.workload_entries.remove(name)),
            Kind::AuthorizationPolicy => drop(self.authorization_policies.remove(name)),
            Kind::PeerAuthentication => drop(self.peer_authentications.remove(name)),
            Kind::VirtualService => drop(self.virtual_services.remove(name)),
            Kind::DestinationRule => drop(self.destination_rules.remove(name)),
            Kind::Telemetry => drop(self.telemetries.remove(name)),
            Kind::Gateway => drop(self.gateways.remove(name)),
            Kind::GatewayClass => drop(self.gateway_classes.remove(name)),
            Kind::HttpRoute => drop(self.http_routes.remove(name)),
            Kind::GrpcRoute => drop(self.grpc_routes.remove(name)),
            Kind::TcpRoute => drop(self.tcp_routes.remove(name)),
            Kind::TlsRoute => drop(self.tls_routes.remove(name)),
            Kind::ReferenceGrant => drop(self.reference_grants.remove(name)),
        }
    }
}
