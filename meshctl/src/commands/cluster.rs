//! What the controller distributes: the same on every node.

use anyhow::Result;

use super::list::{Columns, cluster_wide};
use crate::{
    Outcome,
    answer::{Policy, Port, Service, Workload},
    discover::Node,
    filter::Filter,
    merge::Row,
    output::Printer,
    table::{Cell, Tone},
};

pub(crate) async fn workloads(nodes: &[Node], filter: Filter, printer: &Printer) -> Result<Outcome> {
    let columns = Columns { headers: &["NAMESPACE", "NAME", "ADDRESS", "NODE", "PROTOCOL", "IDENTITY"], cells: workload };
    cluster_wide(nodes, "workloads", &filter, columns, printer).await
}

fn workload(row: &Row<Workload>) -> Vec<Cell> {
    let Workload { uid: _, name, namespace, addresses, node, protocol, identity } = &row.view;
    let identity = if protocol == "HBONE" { identity } else { "" };
    vec![namespace.into(), name.into(), addresses.join(",").into(), node.into(), protocol.into(), identity.into()]
}

pub(crate) async fn services(nodes: &[Node], filter: Filter, printer: &Printer) -> Result<Outcome> {
    let columns = Columns { headers: &["NAMESPACE", "SERVICE NAME", "SERVICE VIP", "PORTS", "ENDPOINTS"], cells: service };
    cluster_wide(nodes, "services", &filter, columns, printer).await
}

fn service(row: &Row<Service>) -> Vec<Cell> {
    let Service { name, namespace, hostname: _, vips, ports, endpoints } = &row.view;
    let vips =
        if vips.is_empty() { "None".to_owned() } else { vips.iter().map(|vip| address(vip)).collect::<Vec<_>>().join(",") };
    let ports: Vec<_> = ports.iter().map(port).collect();
    let healthy = endpoints.iter().filter(|endpoint| endpoint.healthy).count();
    let tone = match (healthy, endpoints.len()) {
        (0, _) => Tone::Bad,
        (healthy, all) if healthy < all => Tone::Doubtful,
        _ => Tone::Good,
    };
    let endpoints = Cell::new(format!("{healthy}/{}", endpoints.len())).tone(tone);
    vec![namespace.into(), name.into(), vips.into(), ports.join(",").into(), endpoints]
}

/// `10.96.0.1` of `10.96.0.1/32`; a wider range as it is.
fn address(range: &str) -> String {
    let full = if range.contains(':') { "/128" } else { "/32" };
    range.strip_suffix(full).unwrap_or(range).to_owned()
}

/// `80`, `80/HTTP` where the protocol is declared, `80->8080/HTTP` where the endpoints' port is another.
fn port(port: &Port) -> String {
    let Port { number, target, protocol } = port;
    let target = if [0, *number].contains(target) { String::new() } else { format!("->{target}") };
    let protocol = if protocol.is_empty() { String::new() } else { format!("/{protocol}") };
    format!("{number}{target}{protocol}")
}

pub(crate) async fn policies(nodes: &[Node], filter: Filter, printer: &Printer) -> Result<Outcome> {
    let columns = Columns { headers: &["NAMESPACE", "POLICY NAME", "ACTION", "SCOPE", "RULES"], cells: policy };
    cluster_wide(nodes, "policies", &filter, columns, printer).await
}

fn policy(row: &Row<Policy>) -> Vec<Cell> {
    let Policy { name, namespace, action, scope, dry_run, rules } = &row.view;
    let action = if *dry_run { format!("{action} (dry run)") } else { action.clone() };
    vec![namespace.into(), name.into(), action.into(), scope.into(), rules.len().into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_addresses_are_short() {
        let check = |number, target, protocol: &str, expected: &str| {
            assert_eq!(port(&Port { number, target, protocol: protocol.into() }), expected);
        };
        check(80, 80, "", "80");
        check(80, 0, "HTTP", "80/HTTP");
        check(80, 8080, "", "80->8080");
        check(443, 8443, "TLS", "443->8443/TLS");
        for (range, text) in
            [("10.0.0.1/32", "10.0.0.1"), ("10.0.0.0/24", "10.0.0.0/24"), ("fd00::1/128", "fd00::1"), ("fd00::/32", "fd00::/32")]
        {
            assert_eq!(address(range), text);
        }
    }
}
