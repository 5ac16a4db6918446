//! The Gateway API's kinds: what their definitions (schemas and CEL rules of version 1.6) demand, so that a folder refuses
//! what an API server refuses.

mod filter;
mod http;

use std::collections::HashSet;

pub(super) use http::{grpc_route, http_route};

use super::problem::{Cause, Problem};
use crate::kinds::gateway::{
    GatewayClassSpec, GatewaySpec, ParentRef, ReferenceGrantSpec, StreamBackend, StreamRule, TcpRouteSpec, TlsRouteSpec,
};

const PARENTS: usize = 32;
const RULES: usize = 16;
const BACKENDS: usize = 16;
const WEIGHT: u32 = 1_000_000;
const HOST: &str = "a host name (a-z, 0-9, '-', '.'; `*.` may come first; no address)";

pub(super) fn gateway(spec: &GatewaySpec) -> Vec<Problem> {
    required("spec.gatewayClassName", &spec.gateway_class_name).into_iter().collect()
}

pub(super) fn gateway_class(spec: &GatewayClassSpec) -> Vec<Problem> {
    required("spec.controllerName", &spec.controller_name).into_iter().collect()
}

pub(super) fn reference_grant(spec: &ReferenceGrantSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (field, empty) in [("spec.from", spec.from.is_empty()), ("spec.to", spec.to.is_empty())] {
        if empty {
            problems.push(Problem::new(field, Cause::Empty));
        }
    }
    for (index, from) in spec.from.iter().enumerate() {
        problems.extend(required(format!("spec.from[{index}].kind"), &from.kind));
        problems.extend(required(format!("spec.from[{index}].namespace"), &from.namespace));
    }
    for (index, to) in spec.to.iter().enumerate() {
        problems.extend(required(format!("spec.to[{index}].kind"), &to.kind));
    }
    problems
}

pub(super) fn tcp_route(spec: &TcpRouteSpec) -> Vec<Problem> {
    let mut problems = parents(&spec.parent_refs);
    problems.extend(stream_rules(&spec.rules));
    problems
}

pub(super) fn tls_route(spec: &TlsRouteSpec) -> Vec<Problem> {
    let mut problems = parents(&spec.parent_refs);
    for (index, host) in spec.hostnames.iter().enumerate().filter(|(_, host)| !is_host(host.strip_prefix("*.").unwrap_or(host))) {
        problems.push(Problem::new(format!("spec.hostnames[{index}]"), Cause::form(host, HOST)));
    }
    problems.extend(stream_rules(&spec.rules));
    problems
}

fn stream_rules(rules: &[StreamRule]) -> Vec<Problem> {
    let mut problems = at_most("spec.rules", rules.len(), RULES);
    if rules.is_empty() {
        problems.push(Problem::new("spec.rules", Cause::Empty));
    }
    problems.extend(rule_names(rules.iter().map(|rule| rule.name.as_deref())));
    for (index, rule) in rules.iter().enumerate() {
        let at = format!("spec.rules[{index}].backendRefs");
        problems.extend(at_most(&at, rule.backend_refs.len(), BACKENDS));
        for (index, backend) in rule.backend_refs.iter().enumerate() {
            let StreamBackend { group, kind, name, namespace: _, port, weight } = backend;
            problems.extend(reference(&format!("{at}[{index}]"), [group, kind, name], *port));
            problems.extend(share(&format!("{at}[{index}]"), *weight));
        }
    }
    problems
}

fn parents(parents: &[ParentRef]) -> Vec<Problem> {
    let mut problems = at_most("spec.parentRefs", parents.len(), PARENTS);
    let mut seen = HashSet::new();
    for (index, parent) in parents.iter().enumerate() {
        let ParentRef { group: _, kind, namespace: _, name, section_name: _, port } = parent;
        let at = format!("spec.parentRefs[{index}]");
        problems.extend(required(format!("{at}.name"), name));
        problems.extend(required(format!("{at}.kind"), kind));
        if *port == Some(0) {
            problems.push(Problem::new(format!("{at}.port"), Cause::form("0", "a port")));
        }
        if !seen.insert(parent) {
            problems.push(Problem::new(at, Cause::Duplicate { found: name.clone() }));
        }
    }
    problems
}

/// A backend: group, kind and name, and the port that a Service has to have.
fn reference(at: &str, [group, kind, name]: [&String; 3], port: Option<u16>) -> Vec<Problem> {
    let mut problems: Vec<Problem> = required(format!("{at}.name"), name).into_iter().collect();
    match port {
        None if group.is_empty() && kind == "Service" => problems.push(Problem::new(format!("{at}.port"), Cause::Missing)),
        Some(0) => problems.push(Problem::new(format!("{at}.port"), Cause::form("0", "a port"))),
        _ => {}
    }
    problems
}

fn share(at: &str, weight: Option<u32>) -> Option<Problem> {
    let found = weight.filter(|weight| *weight > WEIGHT)?;
    Some(Problem::new(format!("{at}.weight"), Cause::form(found.to_string(), "a weight (0 to 1000000)")))
}

fn rule_names<'a>(names: impl Iterator<Item = Option<&'a str>>) -> Vec<Problem> {
    let mut seen = HashSet::new();
    let named = names.enumerate().filter_map(|(index, name)| Some((index, name?)));
    named
        .filter(|(_, name)| !seen.insert(*name))
        .map(|(index, name)| Problem::new(format!("spec.rules[{index}].name"), Cause::Duplicate { found: name.to_owned() }))
        .collect()
}

fn at_most(at: &str, found: usize, limit: usize) -> Vec<Problem> {
    if found > limit { vec![Problem::new(at, Cause::TooMany { found, limit })] } else { Vec::new() }
}

fn required(field: impl Into<String>, value: &str) -> Option<Problem> {
    value.is_empty().then(|| Problem::new(field, Cause::Missing))
}

/// A name of RFC 1123 that is not an address.
fn is_host(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(allowed)
    };
    text.len() <= 253 && text.split('.').all(label) && text.parse::<std::net::IpAddr>().is_err()
}
