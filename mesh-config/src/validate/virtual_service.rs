//! VirtualService (istio's `ValidateVirtualService`).
//!
//! What Istio refuses is refused, but for two faults that it does not know yet (`exponentialDelay`, `http2Error`): these
//! are taken and said to have no effect.

mod http_route;
mod matching;

use std::collections::HashSet;

use super::{
    host::{HOST, export_to, gateways, is_host_pattern, is_label, labels, port},
    problem::{Cause, Problem, is_block},
};
use crate::kinds::{
    VirtualServiceSpec,
    virtual_service::{Destination, L4MatchAttributes, RouteDestination, TcpRoute, TlsRoute},
};

pub(super) use http_route::retries;

pub(super) const MESH: &str = "mesh";

pub(super) fn virtual_service(namespace: &str, spec: &VirtualServiceSpec) -> Vec<Problem> {
    let mut out = Vec::new();
    let VirtualServiceSpec { hosts: _, gateways: names, http, tls, tcp, export_to: targets } = spec;
    let delegate = spec.hosts.is_empty();
    if delegate {
        for (field, there) in [("gateways", !names.is_empty()), ("tls", !tls.is_empty()), ("tcp", !tcp.is_empty())] {
            if there {
                out.push(Problem::new(format!("spec.{field}"), Cause::Exclusive { other: "an empty `hosts` (a delegate)" }));
            }
        }
    }
    hosts(spec, &mut out);
    gateways("spec.gateways", names, &mut out);
    if http.is_empty() && tls.is_empty() && tcp.is_empty() {
        out.push(Problem::new("spec.http", Cause::Missing));
    }
    let at_gateway = names.iter().any(|name| name != MESH);
    for (index, route) in http.iter().enumerate() {
        http_route::route(&format!("spec.http[{index}]"), route, delegate, at_gateway, &mut out);
    }
    for (index, route) in tls.iter().enumerate() {
        tls_route(&format!("spec.tls[{index}]"), route, &spec.hosts, &mut out);
    }
    for (index, route) in tcp.iter().enumerate() {
        tcp_route(&format!("spec.tcp[{index}]"), route, &mut out);
    }
    export_to(namespace, targets, &mut out);
    out
}

fn hosts(spec: &VirtualServiceSpec, out: &mut Vec<Problem>) {
    let only_mesh = spec.gateways.iter().all(|gateway| gateway == MESH);
    for (index, host) in spec.hosts.iter().enumerate() {
        let at = format!("spec.hosts[{index}]");
        if !is_host_pattern(host) {
            out.push(Problem::new(at, Cause::form(host, HOST)));
        } else if host == "*" && only_mesh {
            out.push(Problem::new(at, Cause::form(host, "a host: `*` is for gateways")));
        } else if spec.hosts[..index].iter().any(|before| covers(before, host) || covers(host, before)) {
            out.push(Problem::new(at, Cause::Duplicate { found: host.clone() }));
        }
    }
}

/// Whether every name that `host` stands for is one that `pattern` stands for.
fn covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        None => pattern == host,
        Some(suffix) => host.strip_prefix('*').unwrap_or(host).ends_with(suffix),
    }
}

fn tls_route(at: &str, route: &TlsRoute, hosts: &[String], out: &mut Vec<Problem>) {
    if route.matches.is_empty() {
        out.push(Problem::new(format!("{at}.match"), Cause::Missing));
    }
    for (index, found) in route.matches.iter().enumerate() {
        let at = format!("{at}.match[{index}]");
        if found.sni_hosts.is_empty() {
            out.push(Problem::new(format!("{at}.sniHosts"), Cause::Missing));
        }
        for (index, sni) in found.sni_hosts.iter().enumerate() {
            let at = format!("{at}.sniHosts[{index}]");
            if !is_host_pattern(sni) {
                out.push(Problem::new(at, Cause::form(sni, HOST)));
            } else if !hosts.iter().any(|host| covers(host, sni)) {
                out.push(Problem::new(at, Cause::form(sni, "within one of the hosts of this object")));
            }
        }
        subnets(&format!("{at}.destinationSubnets"), &found.destination_subnets, out);
        if found.port != 0 {
            port(&format!("{at}.port"), found.port, out);
        }
        labels(&format!("{at}.sourceLabels"), &found.source_labels, out);
        gateways(&format!("{at}.gateways"), &found.gateways, out);
        source_namespace(&at, &found.source_namespace, out);
    }
    destinations(at, &route.route, out);
}

fn tcp_route(at: &str, route: &TcpRoute, out: &mut Vec<Problem>) {
    for (index, found) in route.matches.iter().enumerate() {
        let at = format!("{at}.match[{index}]");
        let L4MatchAttributes {
            destination_subnets,
            port: number,
            source_subnet,
            source_labels,
            gateways: names,
            source_namespace: _,
        } = found;
        subnets(&format!("{at}.destinationSubnets"), destination_subnets, out);
        if !source_subnet.is_empty() && !is_block(source_subnet) {
            out.push(Problem::new(format!("{at}.sourceSubnet"), Cause::form(source_subnet, "an address or range")));
        }
        if *number != 0 {
            port(&format!("{at}.port"), *number, out);
        }
        labels(&format!("{at}.sourceLabels"), source_labels, out);
        gateways(&format!("{at}.gateways"), names, out);
        source_namespace(&at, &found.source_namespace, out);
    }
    destinations(at, &route.route, out);
}

fn subnets(at: &str, subnets: &[String], out: &mut Vec<Problem>) {
    for (index, subnet) in subnets.iter().enumerate().filter(|(_, subnet)| !is_block(subnet)) {
        out.push(Problem::new(format!("{at}[{index}]"), Cause::form(subnet, "an address or range")));
    }
}

fn source_namespace(at: &str, namespace: &str, out: &mut Vec<Problem>) {
    if !namespace.is_empty() && !is_label(namespace) {
        out.push(Problem::new(format!("{at}.sourceNamespace"), Cause::form(namespace, "a namespace")));
    }
}

fn destinations(at: &str, routes: &[RouteDestination], out: &mut Vec<Problem>) {
    if routes.is_empty() {
        out.push(Problem::new(format!("{at}.route"), Cause::Missing));
    }
    for (index, route) in routes.iter().enumerate() {
        required_destination(&format!("{at}.route[{index}].destination"), route.destination.as_ref(), out);
    }
    weights(at, routes.iter().map(|route| route.weight), out);
}

/// None is negative, and of several not all are zero.
fn weights(at: &str, weights: impl Iterator<Item = i32>, out: &mut Vec<Problem>) {
    let weights: Vec<i32> = weights.collect();
    for (index, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight < 0) {
        out.push(Problem::new(format!("{at}.route[{index}].weight"), Cause::form(weight.to_string(), "zero or more")));
    }
    if weights.len() > 1 && weights.iter().all(|weight| *weight == 0) {
        let reason = "all weights are zero";
        out.push(Problem::new(format!("{at}.route"), Cause::Ineffective { reason }));
    }
}

fn required_destination(at: &str, found: Option<&Destination>, out: &mut Vec<Problem>) {
    match found {
        None => out.push(Problem::new(at, Cause::Missing)),
        Some(found) => destination(at, found, out),
    }
}

fn destination(at: &str, found: &Destination, out: &mut Vec<Problem>) {
    let Destination { host, subset, port: selector } = found;
    if host == "*" || !is_host_pattern(host) {
        out.push(Problem::new(format!("{at}.host"), Cause::form(host, HOST)));
    }
    if !subset.is_empty() && !is_label(subset) {
        out.push(Problem::new(format!("{at}.subset"), Cause::form(subset, "the name of a subset (a-z, 0-9, '-')")));
    }
    if let Some(selector) = selector {
        port(&format!("{at}.port.number"), selector.number, out);
    }
}

/// Reports what is set beside something that excludes it.
fn exclusive(at: &str, other: &'static str, fields: &[(&str, bool)], out: &mut Vec<Problem>) {
    for (field, _) in fields.iter().filter(|(_, there)| *there) {
        out.push(Problem::new(format!("{at}.{field}"), Cause::Exclusive { other }));
    }
}

/// At most one of these is set.
fn one_of(at: &str, fields: &[(&'static str, bool)], out: &mut Vec<Problem>) {
    let there: Vec<&'static str> = fields.iter().filter(|(_, there)| *there).map(|(field, _)| *field).collect();
    let distinct: HashSet<_> = there.iter().collect();
    if let [first, others @ ..] = &there[..]
        && distinct.len() > 1
    {
        for other in others {
            out.push(Problem::new(format!("{at}.{other}"), Cause::Exclusive { other: first }));
        }
    }
}
