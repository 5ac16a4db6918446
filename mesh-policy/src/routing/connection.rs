//! Which rule a connection follows that is not HTTP.

use std::net::IpAddr;

use crate::model::{Backend, ConnectionMatch, Routes, TcpRule, TlsRule, Workload};

/// The server name of a ClientHello; None: it says none.
pub type TlsName<'a> = Option<&'a str>;

/// The backends of the first TLS rule that matches a connection which begins with a ClientHello; None: no rule does, and
/// the TCP rules are asked.
pub fn select_tls<'a>(
    routes: &'a Routes,
    client: &Workload,
    sni: TlsName<'_>,
    source: IpAddr,
    destination: IpAddr,
) -> Option<&'a [Backend]> {
    select_tls_rule(routes, client, sni, source, destination).map(|rule| &*rule.backends)
}

/// The rule itself.
pub fn select_tls_rule<'a>(
    routes: &'a Routes,
    client: &Workload,
    sni: TlsName<'_>,
    source: IpAddr,
    destination: IpAddr,
) -> Option<&'a TlsRule> {
    routes.tls.iter().find(|rule| {
        let TlsRule { origin: _, sni: names, when, backends: _ } = rule;
        let named = names.is_empty() || sni.is_some_and(|sni| names.iter().any(|name| name_is(name, sni)));
        named && connection_is(when, client, source, destination)
    })
}

/// The backends of the first TCP rule that matches a connection; None: the service itself.
pub fn select_tcp<'a>(routes: &'a Routes, client: &Workload, source: IpAddr, destination: IpAddr) -> Option<&'a [Backend]> {
    select_tcp_rule(routes, client, source, destination).map(|rule| &*rule.backends)
}

/// The rule itself.
pub fn select_tcp_rule<'a>(routes: &'a Routes, client: &Workload, source: IpAddr, destination: IpAddr) -> Option<&'a TcpRule> {
    routes.tcp.iter().find(|rule| {
        let TcpRule { origin: _, when, backends: _ } = rule;
        connection_is(when, client, source, destination)
    })
}

fn connection_is(when: &ConnectionMatch, client: &Workload, source: IpAddr, destination: IpAddr) -> bool {
    let of_client = when.clients.is_empty() || when.clients.iter().any(|one| one.is(client));
    of_client && when.addresses_match(source, destination)
}

/// Names are compared without case and without trailing dot (RFC 6066 §3 allows none). `*.` stands for one label or more,
/// `*` for any name.
fn name_is(wanted: &str, sni: &str) -> bool {
    let sni = sni.strip_suffix('.').unwrap_or(sni);
    match wanted.strip_prefix('*') {
        Some("") => !sni.is_empty(),
        Some(suffix) => {
            let labels = sni.len().checked_sub(suffix.len()).filter(|length| *length > 0);
            labels.and_then(|at| sni.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
        }
        None => wanted.eq_ignore_ascii_case(sni),
    }
}
