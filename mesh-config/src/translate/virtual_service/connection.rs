//! TLS and TCP routes to rules; each match is one.

use mesh_policy::model::{Backend, ClientMatch, ConnectionMatch, TcpRule, TlsRule};

use super::{Place, Root, destination, http_rules::itself, in_mesh, matching};
use crate::{
    kinds::virtual_service::{L4MatchAttributes, RouteDestination, TlsMatchAttributes},
    translate::{Report, network::block},
};

pub(super) fn tls_rules(root: &Root<'_>, place: &Place<'_>, report: &mut Report) -> Vec<TlsRule> {
    let mut out = Vec::new();
    for (index, route) in root.spec.tls.iter().enumerate() {
        let field = format!("spec.tls[{index}]");
        let found: Vec<_> = route.matches.iter().filter_map(|found| tls_match(found, place.port)).collect();
        if found.is_empty() {
            continue;
        }
        let backends = backends(root, place, &field, &route.route, report);
        out.extend(found.into_iter().map(|(sni, when)| {
            let origin = root.origin(field.clone());
            TlsRule { origin, sni, when, backends: backends.clone() }
        }));
    }
    // Who is meant and names another server finds nothing; the others are as if there were no rules.
    if !out.is_empty() && out.iter().all(|rule| !rule.when.clients.is_empty()) {
        let mut clients: Vec<ClientMatch> = Vec::new();
        for client in out.iter().flat_map(|rule| &rule.when.clients) {
            if !clients.contains(client) {
                clients.push(client.clone());
            }
        }
        let when = ConnectionMatch { clients, ..ConnectionMatch::default() };
        out.push(TlsRule { origin: root.origin("spec.tls".into()), sni: Vec::new(), when, backends: Vec::new() });
    }
    out
}

/// Where TLS rules are for some clients only and there are no TCP rules, the service itself is for the others.
pub(super) fn after_tls(rules: &[TlsRule], place: &Place<'_>) -> Vec<TcpRule> {
    let [.., last] = rules else { return Vec::new() };
    if rules.iter().any(|rule| rule.when.clients.is_empty()) {
        return Vec::new();
    }
    vec![TcpRule { origin: last.origin.clone(), when: ConnectionMatch::default(), backends: vec![itself(place)] }]
}

pub(super) fn tcp_rules(root: &Root<'_>, place: &Place<'_>, report: &mut Report) -> Vec<TcpRule> {
    let mut out: Vec<TcpRule> = Vec::new();
    for (index, route) in root.spec.tcp.iter().enumerate() {
        let field = format!("spec.tcp[{index}]");
        let mut found: Vec<ConnectionMatch> = route.matches.iter().filter_map(|found| tcp_match(found, place.port)).collect();
        if route.matches.is_empty() {
            found.push(ConnectionMatch::default());
        }
        if found.is_empty() {
            continue;
        }
        let backends = backends(root, place, &field, &route.route, report);
        out.extend(found.into_iter().map(|when| TcpRule {
            origin: root.origin(field.clone()),
            when,
            backends: backends.clone(),
        }));
    }
    // What no rule takes goes to the service itself, unlike with HTTP.
    if !out.is_empty() && out.iter().all(|rule| rule.when != ConnectionMatch::default()) {
        let origin = root.origin("spec.tcp".into());
        out.push(TcpRule { origin, when: ConnectionMatch::default(), backends: vec![itself(place)] });
    }
    out
}

fn tls_match(found: &TlsMatchAttributes, at: u16) -> Option<(Vec<std::sync::Arc<str>>, ConnectionMatch)> {
    let TlsMatchAttributes { sni_hosts, destination_subnets, port, source_labels, gateways, source_namespace } = found;
    if !applies(gateways, *port, at) {
        return None;
    }
    let when = ConnectionMatch {
        clients: matching::clients(source_namespace, source_labels),
        destination_subnets: destination_subnets.iter().filter_map(|subnet| block(subnet)).collect(),
        source_subnets: Vec::new(),
    };
    Some((sni_hosts.iter().map(|sni| sni.to_ascii_lowercase().into()).collect(), when))
}

fn tcp_match(found: &L4MatchAttributes, at: u16) -> Option<ConnectionMatch> {
    let L4MatchAttributes { destination_subnets, port, source_subnet, source_labels, gateways, source_namespace } = found;
    applies(gateways, *port, at).then(|| ConnectionMatch {
        clients: matching::clients(source_namespace, source_labels),
        destination_subnets: destination_subnets.iter().filter_map(|subnet| block(subnet)).collect(),
        source_subnets: block(source_subnet).into_iter().collect(),
    })
}

fn applies(gateways: &[String], port: u32, at: u16) -> bool {
    in_mesh(gateways) && (port == 0 || port == u32::from(at))
}

fn backends(root: &Root<'_>, place: &Place<'_>, field: &str, routes: &[RouteDestination], report: &mut Report) -> Vec<Backend> {
    let mut out = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let weight = if routes.len() == 1 { 1 } else { u32::try_from(route.weight).unwrap_or(0) };
        let Some(to) = route.destination.as_ref().filter(|_| weight != 0) else { continue };
        let mut to = to.clone();
        to.host = place.sources.hosts.full(&to.host, &root.name.namespace);
        let at = format!("{field}.route[{index}].destination");
        let backend = destination::backend(place, &root.name.namespace, &at, &to, "connections are closed", &mut |message| {
            report.tell(root.key(), message);
        });
        out.push(Backend::new(backend, weight));
    }
    out
}
