//! All translated resources as JSON, with the field names that ztunnel's dump has.

use mesh_policy::model::{Authorization, Clause, Match, Mesh, RequestMatch, Rule, Service, StringMatch, Workload};
use serde_json::{Map, Value, json};

use crate::distribute::Published;

/// Everything that nodes are told.
pub fn dump(published: &Published) -> Value {
    let model = &published.model;
    json!({
        "generation": published.generation,
        "mesh": mesh(&model.mesh),
        "workloads": model.workloads.values().map(|found| workload(found)).collect::<Vec<_>>(),
        "services": model.services.values().map(|found| service(found)).collect::<Vec<_>>(),
        "policies": model.policies.values().map(|found| policy(found)).collect::<Vec<_>>(),
    })
}

fn mesh(mesh: &Mesh) -> Value {
    json!({
        "trustDomain": mesh.trust_domain.as_str(),
        "trustDomainAliases": mesh.trust_domain_aliases.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "outboundPolicy": format!("{:?}", mesh.outbound_policy),
        "prefixes": mesh.prefixes,
        "hboneIdleTimeoutSeconds": mesh.hbone_idle_timeout_s,
    })
}

fn workload(workload: &Workload) -> Value {
    let services: Map<String, Value> = (workload.services.iter())
        .map(|(key, ports)| {
            let ports = ports.iter().map(|port| (port.service_port.to_string(), json!(port.target_port)));
            (key.to_string(), Value::Object(ports.collect()))
        })
        .collect();
    json!({
        "uid": workload.uid.0,
        "name": workload.name,
        "namespace": workload.namespace,
        "workloadIps": workload.addresses,
        "hostname": workload.hostname,
        "network": workload.network,
        "networkMode": format!("{:?}", workload.network_mode),
        "protocol": format!("{:?}", workload.tunnel).to_uppercase(),
        "trustDomain": workload.trust_domain.as_str(),
        "serviceAccount": workload.service_account,
        "node": workload.node,
        "clusterId": workload.cluster,
        "canonicalName": workload.canonical_name,
        "canonicalRevision": workload.canonical_revision,
        "workloadType": workload.kind.as_str(),
        "workloadName": workload.workload_name,
        "authorizationPolicies": workload.policies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "status": format!("{:?}", workload.health),
        "locality": {
            "region": workload.locality.region, "zone": workload.locality.zone, "subzone": workload.locality.subzone,
        },
        "capacity": workload.capacity,
        "services": services,
    })
}

fn service(service: &Service) -> Value {
    let vips = service.addresses.iter().map(|address| format!("{}/{}", address.network, address.range));
    let port = |port: &mesh_policy::model::ServicePort| json!({ "port": port.service_port, "targetPort": port.target_port, "protocol": format!("{:?}", port.protocol) });
    json!({
        "name": service.name,
        "namespace": service.namespace,
        "hostname": service.hostname,
        "vips": vips.collect::<Vec<_>>(),
        "ports": service.ports.iter().map(port).collect::<Vec<_>>(),
        "subjectAltNames": service.subject_alt_names,
        "loadBalancing": {
            "mode": format!("{:?}", service.load_balancing.mode),
            "preference": service.load_balancing.preference.iter().map(|scope| format!("{scope:?}")).collect::<Vec<_>>(),
            "health": format!("{:?}", service.load_balancing.health),
        },
    })
}

fn policy(policy: &Authorization) -> Value {
    let clause = |clause: &Clause| clause.matches.iter().map(attributes).collect::<Vec<_>>();
    let rule = |rule: &Rule| rule.clauses.iter().map(clause).collect::<Vec<_>>();
    json!({
        "name": policy.key.name,
        "namespace": policy.key.namespace,
        "scope": format!("{:?}", policy.scope),
        "action": format!("{:?}", policy.action),
        "dryRun": policy.dry_run,
        "rules": policy.rules.iter().map(rule).collect::<Vec<_>>(),
    })
}

fn attributes(found: &Match) -> Value {
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
    } = found;
    let texts = |values: &[StringMatch]| values.iter().map(pattern).collect::<Vec<_>>();
    let accounts = |values: &[mesh_policy::model::ServiceAccountMatch]| {
        values.iter().map(|account| format!("{}/{}", account.namespace, account.name)).collect::<Vec<_>>()
    };
    let blocks = |values: &[mesh_policy::model::IpMatch]| values.iter().map(|ip| ip.0.to_string()).collect::<Vec<_>>();
    let numbers = |values: &[u16]| values.iter().map(ToString::to_string).collect::<Vec<_>>();
    let fields = [
        ("namespaces", texts(namespaces)),
        ("notNamespaces", texts(not_namespaces)),
        ("serviceAccounts", accounts(service_accounts)),
        ("notServiceAccounts", accounts(not_service_accounts)),
        ("principals", texts(principals)),
        ("notPrincipals", texts(not_principals)),
        ("sourceIps", blocks(source_ips)),
        ("notSourceIps", blocks(not_source_ips)),
        ("destinationIps", blocks(destination_ips)),
        ("notDestinationIps", blocks(not_destination_ips)),
        ("destinationPorts", numbers(destination_ports)),
        ("notDestinationPorts", numbers(not_destination_ports)),
    ];
    let of_request = (*request != RequestMatch::default()).then(|| ("request".to_owned(), json!(request)));
    let fields = fields.into_iter().filter(|(_, values)| !values.is_empty()).map(|(k, v)| (k.to_owned(), json!(v)));
    Value::Object(fields.chain(of_request).collect())
}

/// As users write it.
fn pattern(value: &StringMatch) -> String {
    match value {
        StringMatch::Exact(text) => text.to_string(),
        StringMatch::Prefix(text) => format!("{text}*"),
        StringMatch::Suffix(text) => format!("*{text}"),
        StringMatch::Presence => "*".to_owned(),
    }
}
