//! What is watched, and under which names the API server has it.

use kube::core::ApiResource;
use mesh_config::{
    kinds::Kind,
    validate::{MESH_CONFIG_NAME, ROOT_NAMESPACE},
};

/// A kind and where it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Watch {
    pub(super) kind: Kind,
    pub(super) group: &'static str,
    pub(super) plural: &'static str,
    pub(super) extent: Extent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    All,
    /// One object, so that no more than that need be permitted.
    One {
        namespace: &'static str,
        name: &'static str,
    },
}

const fn all(kind: Kind, group: &'static str, plural: &'static str) -> Watch {
    Watch { kind, group, plural, extent: Extent::All }
}

/// Every API server has them, as `v1`.
pub(super) const BUILT_IN: &[Watch] = &[
    all(Kind::Namespace, "", "namespaces"),
    all(Kind::Node, "", "nodes"),
    all(Kind::Pod, "", "pods"),
    all(Kind::Service, "", "services"),
    all(Kind::EndpointSlice, "discovery.k8s.io", "endpointslices"),
    Watch {
        kind: Kind::ConfigMap,
        group: "",
        plural: "configmaps",
        extent: Extent::One { namespace: ROOT_NAMESPACE, name: MESH_CONFIG_NAME },
    },
];

const GATEWAY: &str = "gateway.networking.k8s.io";
const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";

/// There when somebody has installed their definitions.
pub(super) const CUSTOM: &[Watch] = &[
    all(Kind::ServiceEntry, NETWORKING, "serviceentries"),
    all(Kind::WorkloadEntry, NETWORKING, "workloadentries"),
    all(Kind::VirtualService, NETWORKING, "virtualservices"),
    all(Kind::DestinationRule, NETWORKING, "destinationrules"),
    all(Kind::AuthorizationPolicy, SECURITY, "authorizationpolicies"),
    all(Kind::PeerAuthentication, SECURITY, "peerauthentications"),
    all(Kind::Telemetry, "telemetry.istio.io", "telemetries"),
    all(Kind::Gateway, GATEWAY, "gateways"),
    all(Kind::GatewayClass, GATEWAY, "gatewayclasses"),
    all(Kind::HttpRoute, GATEWAY, "httproutes"),
    all(Kind::GrpcRoute, GATEWAY, "grpcroutes"),
    all(Kind::TcpRoute, GATEWAY, "tcproutes"),
    all(Kind::TlsRoute, GATEWAY, "tlsroutes"),
    all(Kind::ReferenceGrant, GATEWAY, "referencegrants"),
];

impl Watch {
    /// Of a version that the server has.
    pub(super) fn resource(&self, version: &str) -> ApiResource {
        let api_version = if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) };
        ApiResource {
            group: self.group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: self.kind.as_str().to_owned(),
            plural: self.plural.to_owned(),
        }
    }

    /// The name of its CustomResourceDefinition; also how a Role names it.
    pub(super) fn definition(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}
