//! ServiceEntry and WorkloadEntry (the rules of istio's `ValidateServiceEntry` that bear on what is translated).

use std::collections::HashSet;

use super::{
    host::{HOST, is_host},
    problem::{Cause, Problem, is_address, is_block},
};
use crate::kinds::{Resolution, ServiceEntrySpec, WorkloadEntrySpec};

const PORT: &str = "a port";

pub(super) fn service_entry(spec: &ServiceEntrySpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    if spec.hosts.is_empty() {
        problems.push(Problem::new("spec.hosts", Cause::Empty));
    }
    for (index, host) in spec.hosts.iter().enumerate().filter(|(_, host)| !is_host(host)) {
        problems.push(Problem::new(format!("spec.hosts[{index}]"), Cause::form(host, HOST)));
    }
    for (index, address) in spec.addresses.iter().enumerate().filter(|(_, address)| !is_block(address)) {
        problems.push(Problem::new(format!("spec.addresses[{index}]"), Cause::form(address, "an address or range")));
    }
    let ranges = spec.addresses.iter().any(|address| address.contains('/'));
    if ranges && !matches!(spec.resolution, Resolution::None | Resolution::Static) {
        problems.push(Problem::new("spec.addresses", Cause::Exclusive { other: "a resolution by DNS when they are ranges" }));
    }
    let by_dns = matches!(spec.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    if by_dns && spec.endpoints.is_empty() && spec.workload_selector.is_none() {
        for (index, host) in spec.hosts.iter().enumerate().filter(|(_, host)| host.starts_with('*')) {
            let wanted = "a name that can be looked up: with resolution DNS and no endpoints";
            problems.push(Problem::new(format!("spec.hosts[{index}]"), Cause::form(host, wanted)));
        }
    }
    if spec.workload_selector.is_some() && !spec.endpoints.is_empty() {
        problems.push(Problem::new("spec.endpoints", Cause::Exclusive { other: "workloadSelector" }));
    }
    if spec.resolution == Resolution::None && !spec.endpoints.is_empty() {
        problems.push(Problem::new("spec.endpoints", Cause::Exclusive { other: "resolution NONE" }));
    }
    problems.extend(ports(spec));
    for (index, endpoint) in spec.endpoints.iter().enumerate() {
        let field = format!("spec.endpoints[{index}]");
        problems.extend(workload_entry(&field, endpoint));
        if spec.resolution == Resolution::Static && !is_address(&endpoint.address) {
            problems.push(Problem::new(format!("{field}.address"), Cause::form(&endpoint.address, "an address")));
        }
        for name in endpoint.ports.keys().filter(|name| !spec.ports.iter().any(|port| port.name == **name)) {
            problems.push(Problem::new(format!("{field}.ports.{name}"), Cause::form(name, "the name of a port of this entry")));
        }
    }
    problems
}

fn ports(spec: &ServiceEntrySpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    let (mut numbers, mut names) = (HashSet::new(), HashSet::new());
    for (index, port) in spec.ports.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        if !(1..=65535).contains(&port.number) {
            problems.push(Problem::new(field("number"), Cause::form(port.number.to_string(), PORT)));
        }
        if port.target_port > 65535 {
            problems.push(Problem::new(field("targetPort"), Cause::form(port.target_port.to_string(), PORT)));
        }
        if port.name.is_empty() {
            problems.push(Problem::new(field("name"), Cause::Missing));
        } else if !names.insert(&port.name) {
            problems.push(Problem::new(field("name"), Cause::Duplicate { found: port.name.clone() }));
        }
        if !numbers.insert(port.number) {
            problems.push(Problem::new(field("number"), Cause::Duplicate { found: port.number.to_string() }));
        }
    }
    problems
}

pub(super) fn workload_entry(at: &str, spec: &WorkloadEntrySpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    // A unix socket is an address for sidecars only; nothing could reach it from another pod.
    if !is_address(&spec.address) && !is_host(&spec.address) {
        problems.push(Problem::new(format!("{at}.address"), Cause::form(&spec.address, "an address or a host name")));
    }
    for (name, port) in spec.ports.iter().filter(|(_, port)| !(1..=65535).contains(*port)) {
        problems.push(Problem::new(format!("{at}.ports.{name}"), Cause::form(port.to_string(), PORT)));
    }
    problems
}
