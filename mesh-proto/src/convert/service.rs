//! `istio.workload.Service`.

use ipnet::IpNet;
use mesh_policy::model::{
    self, AppProtocol, HealthPolicy, LoadBalancing, RoutingMode, RoutingScope, ServicePort, VirtualAddress,
};

use super::{
    error::{At, Cause, ConvertError},
    extension::{exports, wire_exports},
    network::{address, bytes_of, known, port, port_in_use, prefix},
};
use crate::workload::{self as wire, load_balancing as lb};

impl TryFrom<wire::Service> for model::Service {
    type Error = ConvertError;

    fn try_from(service: wire::Service) -> Result<Self, Self::Error> {
        let wire::Service {
            name,
            namespace,
            hostname,
            addresses,
            ports,
            subject_alt_names,
            waypoint,
            load_balancing,
            // Follows from the addresses.
            ip_families: _,
            extensions,
            // For names, not for addresses.
            canonical: _,
            // For ingress gateways.
            ingress_use_waypoint: _,
            weighted_waypoints,
            // For names, not for addresses.
            visibility: _,
        } = service;
        let key = format!("{namespace}/{hostname}");
        let at = At { kind: "Service", name: &key };
        for (field, value) in [("namespace", &namespace), ("hostname", &hostname)] {
            if value.is_empty() {
                return Err(at.refuse(field, Cause::Empty));
            }
        }
        if waypoint.is_some() {
            return Err(at.refuse("waypoint", Cause::Unsupported));
        }
        if !weighted_waypoints.is_empty() {
            return Err(at.refuse("weighted_waypoints", Cause::Unsupported));
        }
        let addresses = (addresses.iter().enumerate())
            .map(|(index, found)| virtual_address(found).map_err(|cause| at.refuse(format!("addresses[{index}]"), cause)))
            .collect::<Result<_, _>>()?;
        let ports = (ports.iter().enumerate())
            .map(|(index, port)| service_port(port).map_err(|cause| at.refuse(format!("ports[{index}]"), cause)))
            .collect::<Result<_, _>>()?;
        let load_balancing = match load_balancing {
            Some(found) => balancing(&found).map_err(|cause| at.refuse("load_balancing", cause))?,
            None => LoadBalancing::default(),
        };
        Ok(Self {
            name: name.into(),
            namespace: namespace.into(),
            hostname: hostname.into(),
            addresses,
            ports,
            subject_alt_names: subject_alt_names.into_iter().map(Into::into).collect(),
            load_balancing,
            exports: exports(&extensions).map_err(|cause| at.refuse("extensions", cause))?,
        })
    }
}

impl From<&model::Service> for wire::Service {
    fn from(service: &model::Service) -> Self {
        let model::Service { name, namespace, hostname, addresses, ports, subject_alt_names, load_balancing, exports } = service;
        Self {
            name: name.to_string(),
            namespace: namespace.to_string(),
            hostname: hostname.to_string(),
            addresses: addresses.iter().map(network_address).collect(),
            ports: ports.iter().copied().map(wire_port).collect(),
            subject_alt_names: subject_alt_names.iter().map(ToString::to_string).collect(),
            load_balancing: (*load_balancing != LoadBalancing::default()).then(|| wire_balancing(load_balancing)),
            extensions: wire_exports(exports),
            ..Self::default()
        }
    }
}

fn virtual_address(found: &wire::NetworkAddress) -> Result<VirtualAddress, Cause> {
    let range = match found.length {
        Some(length) => prefix(&found.address, length)?,
        None => IpNet::from(address(&found.address)?),
    };
    Ok(VirtualAddress { network: found.network.as_str().into(), range })
}

fn network_address(found: &VirtualAddress) -> wire::NetworkAddress {
    let VirtualAddress { network, range } = found;
    let single = range.prefix_len() == range.max_prefix_len();
    wire::NetworkAddress {
        network: network.to_string(),
        address: bytes_of(range.addr()),
        length: (!single).then(|| range.prefix_len().into()),
    }
}

fn service_port(found: &wire::Port) -> Result<ServicePort, Cause> {
    Ok(ServicePort {
        service_port: port_in_use(found.service_port)?,
        target_port: port(found.target_port)?,
        protocol: match known(found.app_protocol)? {
            wire::AppProtocol::Unknown => AppProtocol::Unknown,
            wire::AppProtocol::Http11 => AppProtocol::Http11,
            wire::AppProtocol::Http2 => AppProtocol::Http2,
            wire::AppProtocol::Grpc => AppProtocol::Grpc,
            wire::AppProtocol::Tcp => AppProtocol::Tcp,
            wire::AppProtocol::Tls => AppProtocol::Tls,
        },
    })
}

fn wire_port(port: ServicePort) -> wire::Port {
    let ServicePort { service_port, target_port, protocol } = port;
    wire::Port {
        service_port: service_port.into(),
        target_port: target_port.into(),
        app_protocol: match protocol {
            AppProtocol::Unknown => wire::AppProtocol::Unknown,
            AppProtocol::Http11 => wire::AppProtocol::Http11,
            AppProtocol::Http2 => wire::AppProtocol::Http2,
            AppProtocol::Grpc => wire::AppProtocol::Grpc,
            AppProtocol::Tcp => wire::AppProtocol::Tcp,
            AppProtocol::Tls => wire::AppProtocol::Tls,
        } as i32,
    }
}

fn balancing(found: &wire::LoadBalancing) -> Result<LoadBalancing, Cause> {
    let scope = |value: &i32| match known(*value)? {
        lb::Scope::UnspecifiedScope => Err(Cause::EnumValue { value: *value }),
        lb::Scope::Region => Ok(RoutingScope::Region),
        lb::Scope::Zone => Ok(RoutingScope::Zone),
        lb::Scope::Subzone => Ok(RoutingScope::Subzone),
        lb::Scope::Node => Ok(RoutingScope::Node),
        lb::Scope::Cluster => Ok(RoutingScope::Cluster),
        lb::Scope::Network => Ok(RoutingScope::Network),
    };
    Ok(LoadBalancing {
        mode: match known(found.mode)? {
            lb::Mode::UnspecifiedMode => RoutingMode::Unspecified,
            lb::Mode::Strict => RoutingMode::Strict,
            lb::Mode::Failover => RoutingMode::Failover,
            lb::Mode::Passthrough => RoutingMode::Passthrough,
        },
        preference: found.routing_preference.iter().map(scope).collect::<Result<_, _>>()?,
        health: match known(found.health_policy)? {
            lb::HealthPolicy::OnlyHealthy => HealthPolicy::OnlyHealthy,
            lb::HealthPolicy::AllowAll => HealthPolicy::AllowAll,
        },
    })
}

fn wire_balancing(balancing: &LoadBalancing) -> wire::LoadBalancing {
    let LoadBalancing { mode, preference, health } = balancing;
    let scope = |scope: &RoutingScope| match scope {
        RoutingScope::Network => lb::Scope::Network,
        RoutingScope::Region => lb::Scope::Region,
        RoutingScope::Zone => lb::Scope::Zone,
        RoutingScope::Subzone => lb::Scope::Subzone,
        RoutingScope::Node => lb::Scope::Node,
        RoutingScope::Cluster => lb::Scope::Cluster,
    };
    wire::LoadBalancing {
        routing_preference: preference.iter().map(|preferred| scope(preferred) as i32).collect(),
        mode: match mode {
            RoutingMode::Unspecified => lb::Mode::UnspecifiedMode,
            RoutingMode::Strict => lb::Mode::Strict,
            RoutingMode::Failover => lb::Mode::Failover,
            RoutingMode::Passthrough => lb::Mode::Passthrough,
        } as i32,
        health_policy: match health {
            HealthPolicy::OnlyHealthy => lb::HealthPolicy::OnlyHealthy,
            HealthPolicy::AllowAll => lb::HealthPolicy::AllowAll,
        } as i32,
    }
}
