//! Kubernetes' own kinds, as far as the mesh relies on them.

use std::collections::HashSet;

use k8s_openapi::{
    api::{
        core::v1::{Node, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::problem::{Cause, Problem, is_address, is_block};
use crate::kinds::{Kind, ObjectKey};

/// RFC 1123: what Kubernetes accepts as names of namespaces and objects.
pub(super) fn names(key: &ObjectKey) -> Vec<Problem> {
    let mut problems = Vec::new();
    let name = &key.name;
    let label = |text: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let bytes = text.as_bytes();
        bytes.len() <= 63
            && edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
    };
    let subdomain = |text: &str| text.len() <= 253 && text.split('.').all(label);
    let valid = match key.kind {
        Kind::Namespace | Kind::Service => label(&name.name),
        _ => subdomain(&name.name),
    };
    if !valid {
        problems.push(Problem::new("metadata.name", Cause::form(&*name.name, "a name (a-z, 0-9, '-', '.')")));
    }
    if key.kind.is_namespaced() && !label(&name.namespace) {
        problems.push(Problem::new("metadata.namespace", Cause::form(&*name.namespace, "a namespace (a-z, 0-9, '-')")));
    }
    problems
}

pub(super) fn node(node: &Node) -> Vec<Problem> {
    let spec = node.spec.iter();
    let blocks = spec.flat_map(|spec| spec.pod_cidr.iter().chain(spec.pod_cidrs.iter().flatten()));
    blocks
        .filter(|block| !is_block(block))
        .map(|block| Problem::new("spec.podCIDRs", Cause::form(block, "an address range")))
        .collect()
}

pub(super) fn pod(pod: &Pod) -> Vec<Problem> {
    let status = pod.status.iter();
    let addresses = status.flat_map(|status| {
        status.pod_ip.iter().chain(status.pod_ips.iter().flatten().map(|ip| &ip.ip)).filter(|ip| !ip.is_empty())
    });
    addresses
        .filter(|address| !is_address(address))
        .map(|address| Problem::new("status.podIPs", Cause::form(address, "an address")))
        .collect()
}

pub(super) fn service(service: &Service) -> Vec<Problem> {
    let mut problems = Vec::new();
    let Some(spec) = &service.spec else {
        return problems;
    };
    let ips = spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter());
    for ip in ips.filter(|ip| !ip.is_empty() && *ip != "None" && !is_address(ip)) {
        problems.push(Problem::new("spec.clusterIPs", Cause::form(ip, "an address or None")));
    }
    let mut seen = HashSet::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        if !(1..=65535).contains(&port.port) {
            problems.push(Problem::new(field("port"), Cause::form(port.port.to_string(), "a port")));
        }
        if let Some(IntOrString::Int(target)) = &port.target_port
            && !(1..=65535).contains(target)
        {
            problems.push(Problem::new(field("targetPort"), Cause::form(target.to_string(), "a port")));
        }
        if !seen.insert((port.port, port.protocol.clone())) {
            problems.push(Problem::new(field("port"), Cause::Duplicate { found: port.port.to_string() }));
        }
    }
    problems
}

pub(super) fn endpoint_slice(slice: &EndpointSlice) -> Vec<Problem> {
    let mut problems = Vec::new();
    if slice.address_type == "FQDN" {
        return problems;
    }
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        for address in endpoint.addresses.iter().filter(|address| !is_address(address)) {
            problems.push(Problem::new(format!("endpoints[{index}].addresses"), Cause::form(address, "an address")));
        }
    }
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        if let Some(number) = port.port
            && !(1..=65535).contains(&number)
        {
            problems.push(Problem::new(format!("ports[{index}].port"), Cause::form(number.to_string(), "a port")));
        }
    }
    problems
}
