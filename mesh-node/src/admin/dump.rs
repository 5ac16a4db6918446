//! Everything that the node holds, as JSON: the keys of ztunnel's `config_dump`, so that its readers work.

use std::time::SystemTime;

use mesh_policy::model::{
    Action, AppProtocol, Authorization, Clause, Health, Locality, Match, NetworkMode, RequestMatch, Scope, Service, Snapshot,
    StringMatch, TunnelProtocol, Workload,
};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::api::Admin;

pub(super) fn config(admin: &Admin) -> Value {
    let snapshot = admin.store.load();
    let mesh = snapshot.mesh();
    json!({
        "node": admin.node,
        "version": { "version": env!("CARGO_PKG_VERSION"), "component": "keelson-node" },
        "mesh": {
            "trustDomain": mesh.trust_domain.as_str(),
            "trustDomainAliases": mesh.trust_domain_aliases.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "outboundTrafficPolicy": format!("{:?}", mesh.outbound_policy),
            "prefixes": mesh.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
        "pods": pods(admin),
        "workloads": snapshot.workloads().map(|w| workload(w)).collect::<Vec<_>>(),
        "services": snapshot.services().map(|s| service(&snapshot, s)).collect::<Vec<_>>(),
        "policies": snapshot.policies().map(|p| policy(p)).collect::<Vec<_>>(),
        "routes": snapshot.model().routes.values().collect::<Vec<_>>(),
        "destinationRules": snapshot.model().traffic.values().collect::<Vec<_>>(),
        "http": snapshot.http(),
        "certificates": certificates(admin),
    })
}

fn pods(admin: &Admin) -> Vec<Value> {
    let row = |pod: crate::enrol::agent::PodStatus| {
        json!({
            "uid": pod.record.uid,
            "namespace": pod.record.namespace,
            "name": pod.record.name,
            "serviceAccount": pod.record.service_account,
            "addresses": pod.record.addresses,
            "netns": pod.record.netns_path,
            "state": if pod.leaving { "Releasing" } else { "Captured" },
            "connections": pod.connections,
            "cpuSeconds": pod.cpu.as_secs_f64(),
        })
    };
    admin.agent.status().into_iter().map(row).collect()
}

fn workload(workload: &Workload) -> Value {
    json!({
        "uid": workload.uid.to_string(),
        "name": &*workload.name,
        "namespace": &*workload.namespace,
        "workloadIps": workload.addresses,
        "hostname": &*workload.hostname,
        "network": &*workload.network,
        "networkMode": match workload.network_mode { NetworkMode::Standard => "Standard", NetworkMode::HostNetwork => "HostNetwork" },
        "protocol": match workload.tunnel { TunnelProtocol::None => "TCP", TunnelProtocol::Hbone => "HBONE" },
        "trustDomain": workload.trust_domain.as_str(),
        "serviceAccount": &*workload.service_account,
        "identity": workload.identity().to_string(),
        "node": &*workload.node,
        "clusterId": &*workload.cluster,
        "canonicalName": &*workload.canonical_name,
        "canonicalRevision": &*workload.canonical_revision,
        "workloadType": workload.kind.as_str(),
        "workloadName": &*workload.workload_name,
        "authorizationPolicies": workload.policies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "status": match workload.health { Health::Healthy => "Healthy", Health::Unhealthy => "Unhealthy" },
        "locality": locality(&workload.locality),
        "capacity": workload.capacity,
        "services": workload.services.keys().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn locality(locality: &Locality) -> Value {
    json!({ "region": &*locality.region, "zone": &*locality.zone, "subzone": &*locality.subzone })
}

fn service(snapshot: &Snapshot, service: &Service) -> Value {
    let ports = service.ports.iter().map(|port| {
        json!({
            "port": port.service_port,
            "targetPort": port.target_port,
            "protocol": match port.protocol {
                AppProtocol::Unknown => "",
                AppProtocol::Http11 => "HTTP",
                AppProtocol::Http2 => "HTTP2",
                AppProtocol::Grpc => "GRPC",
                AppProtocol::Tcp => "TCP",
                AppProtocol::Tls => "TLS",
            },
        })
    });
    let endpoints = snapshot.endpoints(&service.key()).iter().map(|endpoint| {
        json!({
            "workloadUid": endpoint.workload.uid.to_string(),
            "healthy": endpoint.workload.health == Health::Healthy,
            "node": &*endpoint.workload.node,
        })
    });
    json!({
        "name": &*service.name,
        "namespace": &*service.namespace,
        "hostname": &*service.hostname,
        "vips": service.addresses.iter().map(|address| address.range.to_string()).collect::<Vec<_>>(),
        "ports": ports.collect::<Vec<_>>(),
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

fn policy(policy: &Authorization) -> Value {
    json!({
        "name": &*policy.key.name,
        "namespace": &*policy.key.namespace,
        "scope": match policy.scope { Scope::Global => "Global", Scope::Namespace => "Namespace", Scope::Workload => "WorkloadSelector" },
        "action": match policy.action { Action::Allow => "Allow", Action::Deny => "Deny" },
        "dryRun": policy.dry_run,
        "rules": policy.rules.iter().map(|rule| rule.clauses.iter().map(clause).collect::<Vec<_>>()).collect::<Vec<_>>(),
    })
}

fn clause(clause: &Clause) -> Vec<Value> {
    clause.matches.iter().map(attributes).collect()
}

/// Only what is set.
fn attributes(attributes: &Match) -> Value {
    let strings = |list: &[StringMatch]| -> Vec<String> {
        let written = |value: &StringMatch| match value {
            StringMatch::Exact(text) => text.to_string(),
            StringMatch::Prefix(text) => format!("{text}*"),
            StringMatch::Suffix(text) => format!("*{text}"),
            StringMatch::Presence => "*".into(),
        };
        list.iter().map(written).collect()
    };
    let Match {
        namespaces,
        not_namespaces,
        service_accounts,
        not_service_accounts,
        principals,
        not_principals,
        source_ips,
        not_source_ips,
        destination_ips,
        not_destination_ips,
        destination_ports,
        not_destination_ports,
        request,
    } = attributes;
    let accounts = |list: &[mesh_policy::model::ServiceAccountMatch]| -> Vec<String> {
        list.iter().map(|account| format!("{}/{}", account.namespace, account.name)).collect()
    };
    let ips = |list: &[mesh_policy::model::IpMatch]| -> Vec<String> { list.iter().map(|ip| ip.0.to_string()).collect() };
    let mut value = json!({
        "namespaces": strings(namespaces),
        "notNamespaces": strings(not_namespaces),
        "serviceAccounts": accounts(service_accounts),
        "notServiceAccounts": accounts(not_service_accounts),
        "principals": strings(principals),
        "notPrincipals": strings(not_principals),
        "sourceIps": ips(source_ips),
        "notSourceIps": ips(not_source_ips),
        "destinationIps": ips(destination_ips),
        "notDestinationIps": ips(not_destination_ips),
        "destinationPorts": destination_ports,
        "notDestinationPorts": not_destination_ports,
    });
    if let Some(object) = value.as_object_mut() {
        object.retain(|_, list| list.as_array().is_some_and(|list| !list.is_empty()));
        if *request != RequestMatch::default() {
            object.insert("request".into(), json!(request));
        }
    }
    value
}

fn certificates(admin: &Admin) -> Vec<Value> {
    let when = |time: SystemTime| OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default();
    let row = |entry: crate::identity::CertificateSnapshot| {
        let chain = entry.certificate.as_ref().map(|tls| {
            let facts = tls.facts();
            json!([{
                "serialNumber": facts.serial,
                "validFrom": when(facts.not_before),
                "expirationTime": when(facts.not_after),
                "pem": tls.chain_pem(),
            }])
        });
        json!({
            "identity": entry.identity.to_string(),
            "state": format!("{:?}", entry.state),
            "lastError": entry.last_error,
            "certChain": chain.unwrap_or_default(),
        })
    };
    admin.certificates.snapshot().into_iter().map(row).collect()
}
