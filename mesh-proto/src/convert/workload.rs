//! `istio.workload.Workload`.

use std::collections::BTreeMap;

use mesh_policy::model::{self, Health, Locality, NetworkMode, PolicyKey, PortMapping, ServiceKey, TunnelProtocol, WorkloadKind};

use super::{
    error::{At, Cause, ConvertError},
    extension::{labels, wire_labels},
    network::{address, bytes_of, known, pair, port, port_in_use, trust_domain},
};
use crate::workload as wire;

impl TryFrom<wire::Workload> for model::Workload {
    type Error = ConvertError;

    fn try_from(workload: wire::Workload) -> Result<Self, Self::Error> {
        let wire::Workload {
            uid,
            name,
            namespace,
            addresses,
            hostname,
            network,
            tunnel_protocol,
            trust_domain: domain,
            service_account,
            waypoint,
            network_gateway,
            node,
            canonical_name,
            canonical_revision,
            workload_type,
            workload_name,
            // Whether the workload ends its tunnels itself makes no difference to who calls it.
            native_tunnel: _,
            application_tunnel,
            services,
            authorization_policies,
            status,
            cluster_id,
            locality,
            network_mode,
            extensions,
            capacity,
        } = workload;
        let at = At { kind: "Workload", name: &uid };
        if uid.is_empty() {
            return Err(at.refuse("uid", Cause::Empty));
        }
        // Passing these by would skip whatever the detour is there to enforce.
        if waypoint.is_some() {
            return Err(at.refuse("waypoint", Cause::Unsupported));
        }
        if network_gateway.is_some() {
            return Err(at.refuse("network_gateway", Cause::Unsupported));
        }
        if application_tunnel.is_some_and(|tunnel| tunnel.protocol != wire::application_tunnel::Protocol::None as i32) {
            return Err(at.refuse("application_tunnel", Cause::Unsupported));
        }

        let addresses = (addresses.iter().enumerate())
            .map(|(index, bytes)| address(bytes).map_err(|cause| at.refuse(format!("addresses[{index}]"), cause)))
            .collect::<Result<_, _>>()?;
        let policies = (authorization_policies.iter().enumerate())
            .map(|(index, key)| policy_key(key).map_err(|cause| at.refuse(format!("authorization_policies[{index}]"), cause)))
            .collect::<Result<_, _>>()?;
        let services = (services.iter())
            .map(|(key, ports)| service_ports(key, ports).map_err(|cause| at.refuse(format!("services[{key:?}]"), cause)))
            .collect::<Result<BTreeMap<_, _>, _>>()?;
        let wire::Locality { region, zone, subzone } = locality.unwrap_or_default();
        let capacity = capacity.unwrap_or(1);
        if capacity == 0 {
            return Err(at.refuse("capacity", Cause::Range { value: 0 }));
        }

        Ok(Self {
            tunnel: tunnel(tunnel_protocol).map_err(|cause| at.refuse("tunnel_protocol", cause))?,
            trust_domain: match domain.as_str() {
                "" => model::TrustDomain::default(),
                domain => trust_domain(domain).map_err(|cause| at.refuse("trust_domain", cause))?,
            },
            kind: kind(workload_type).map_err(|cause| at.refuse("workload_type", cause))?,
            health: health(status).map_err(|cause| at.refuse("status", cause))?,
            network_mode: mode(network_mode).map_err(|cause| at.refuse("network_mode", cause))?,
            service_account: if service_account.is_empty() { "default".into() } else { service_account.into() },
            uid: model::WorkloadUid(uid.as_str().into()),
            name: name.into(),
            namespace: namespace.into(),
            addresses,
            hostname: hostname.into(),
            network: network.into(),
            node: node.into(),
            cluster: cluster_id.into(),
            canonical_name: canonical_name.into(),
            canonical_revision: canonical_revision.into(),
            workload_name: workload_name.into(),
            policies,
            locality: Locality { region: region.into(), zone: zone.into(), subzone: subzone.into() },
            capacity,
            labels: labels(&extensions).map_err(|cause| at.refuse("extensions", cause))?,
            services,
        })
    }
}

impl From<&model::Workload> for wire::Workload {
    fn from(workload: &model::Workload) -> Self {
        let model::Workload {
            uid,
            name,
            namespace,
            addresses,
            hostname,
            network,
            network_mode,
            tunnel,
            trust_domain,
            service_account,
            node,
            cluster,
            canonical_name,
            canonical_revision,
            kind,
            workload_name,
            policies,
            health,
            locality: Locality { region, zone, subzone },
            capacity,
            labels,
            services,
        } = workload;
        let no_locality = region.is_empty() && zone.is_empty() && subzone.is_empty();
        let locality = wire::Locality { region: region.to_string(), zone: zone.to_string(), subzone: subzone.to_string() };
        Self {
            uid: uid.to_string(),
            name: name.to_string(),
            namespace: namespace.to_string(),
            addresses: addresses.iter().map(|address| bytes_of(*address)).collect(),
            hostname: hostname.to_string(),
            network: network.to_string(),
            tunnel_protocol: match tunnel {
                TunnelProtocol::None => wire::TunnelProtocol::None,
                TunnelProtocol::Hbone => wire::TunnelProtocol::Hbone,
            } as i32,
            trust_domain: trust_domain.to_string(),
            service_account: service_account.to_string(),
            waypoint: None,
            network_gateway: None,
            node: node.to_string(),
            canonical_name: canonical_name.to_string(),
            canonical_revision: canonical_revision.to_string(),
            workload_type: match kind {
                WorkloadKind::Deployment => wire::WorkloadType::Deployment,
                WorkloadKind::CronJob => wire::WorkloadType::Cronjob,
                WorkloadKind::Pod => wire::WorkloadType::Pod,
                WorkloadKind::Job => wire::WorkloadType::Job,
            } as i32,
            workload_name: workload_name.to_string(),
            native_tunnel: false,
            application_tunnel: None,
            services: services.iter().map(|(key, ports)| (key.to_string(), port_list(ports))).collect(),
            authorization_policies: policies.iter().map(ToString::to_string).collect(),
            status: match health {
                Health::Healthy => wire::WorkloadStatus::Healthy,
                Health::Unhealthy => wire::WorkloadStatus::Unhealthy,
            } as i32,
            cluster_id: cluster.to_string(),
            locality: (!no_locality).then_some(locality),
            network_mode: match network_mode {
                NetworkMode::Standard => wire::NetworkMode::Standard,
                NetworkMode::HostNetwork => wire::NetworkMode::HostNetwork,
            } as i32,
            extensions: wire_labels(labels),
            capacity: (*capacity != 1).then_some(*capacity),
        }
    }
}

fn policy_key(key: &str) -> Result<PolicyKey, Cause> {
    let (namespace, name) = pair(key, "namespace/name")?;
    Ok(PolicyKey { namespace: namespace.into(), name: name.into() })
}

fn service_ports(key: &str, ports: &wire::PortList) -> Result<(ServiceKey, Vec<PortMapping>), Cause> {
    let (namespace, hostname) = pair(key, "namespace/hostname")?;
    let mappings = (ports.ports.iter())
        .map(|mapping| {
            Ok(PortMapping { service_port: port_in_use(mapping.service_port)?, target_port: port(mapping.target_port)? })
        })
        .collect::<Result<_, Cause>>()?;
    Ok((ServiceKey { namespace: namespace.into(), hostname: hostname.into() }, mappings))
}

fn port_list(ports: &[PortMapping]) -> wire::PortList {
    let port = |mapping: &PortMapping| wire::Port {
        service_port: mapping.service_port.into(),
        target_port: mapping.target_port.into(),
        app_protocol: wire::AppProtocol::Unknown as i32,
    };
    wire::PortList { ports: ports.iter().map(port).collect() }
}

fn tunnel(value: i32) -> Result<TunnelProtocol, Cause> {
    match known(value)? {
        wire::TunnelProtocol::None => Ok(TunnelProtocol::None),
        wire::TunnelProtocol::Hbone => Ok(TunnelProtocol::Hbone),
        wire::TunnelProtocol::LegacyIstioMtls => Err(Cause::Unsupported),
    }
}

fn kind(value: i32) -> Result<WorkloadKind, Cause> {
    Ok(match known(value)? {
        wire::WorkloadType::Deployment => WorkloadKind::Deployment,
        wire::WorkloadType::Cronjob => WorkloadKind::CronJob,
        wire::WorkloadType::Pod => WorkloadKind::Pod,
        wire::WorkloadType::Job => WorkloadKind::Job,
    })
}

fn health(value: i32) -> Result<Health, Cause> {
    Ok(match known(value)? {
        wire::WorkloadStatus::Healthy => Health::Healthy,
        wire::WorkloadStatus::Unhealthy => Health::Unhealthy,
    })
}

fn mode(value: i32) -> Result<NetworkMode, Cause> {
    Ok(match known(value)? {
        wire::NetworkMode::Standard => NetworkMode::Standard,
        wire::NetworkMode::HostNetwork => NetworkMode::HostNetwork,
    })
}
