//! TCPRoute and TLSRoute.

use mesh_policy::model::{Backend, ConnectionMatch, TcpRule, TlsRule};

use super::{Placed, Rank, Rules, backend::Backends, origin};
use crate::kinds::gateway::{StreamRule, TcpRouteSpec, TlsRouteSpec};

pub(super) fn tcp_rules(spec: &TcpRouteSpec, backends: &Backends<'_>) -> Rules {
    let mut rules = Rules { count: spec.rules.len(), ..Rules::default() };
    for (index, rule) in spec.rules.iter().enumerate() {
        let at = format!("spec.rules[{index}]");
        let found = forward(&at, rule, backends, &mut rules);
        let rule = TcpRule { origin: origin(backends.route, at), when: ConnectionMatch::default(), backends: found };
        rules.tcp.push(Placed { rank: Rank::default(), place: (index, 0), rule });
    }
    rules
}

/// One rule for each name: exact names before wildcards, longer ones before shorter.
pub(super) fn tls_rules(spec: &TlsRouteSpec, backends: &Backends<'_>) -> Rules {
    let mut rules = Rules { count: spec.rules.len(), ..Rules::default() };
    for (index, rule) in spec.rules.iter().enumerate() {
        let at = format!("spec.rules[{index}]");
        let found = forward(&at, rule, backends, &mut rules);
        let any = [String::new()];
        let hostnames = if spec.hostnames.is_empty() { &any[..] } else { &spec.hostnames[..] };
        for (number, hostname) in hostnames.iter().enumerate() {
            let exact = usize::from(!hostname.is_empty() && !hostname.starts_with('*'));
            let rule = TlsRule {
                origin: origin(backends.route, at.clone()),
                sni: Some(hostname.as_str().into()).filter(|_| !hostname.is_empty()).into_iter().collect(),
                when: ConnectionMatch::default(),
                backends: found.clone(),
            };
            rules.tls.push(Placed { rank: Rank([exact, hostname.chars().count(), 0, 0, 0]), place: (index, number), rule });
        }
    }
    rules
}

fn forward(at: &str, rule: &StreamRule, backends: &Backends<'_>, rules: &mut Rules) -> Vec<Backend> {
    let StreamRule { name: _, backend_refs } = rule;
    let numbered = backend_refs.iter().enumerate();
    numbered
        .map(|(index, backend)| {
            let to = backends.resolve(&format!("{at}.backendRefs[{index}]"), &backend.into(), &mut rules.unresolved);
            Backend::new(to, backend.weight.unwrap_or(1))
        })
        .collect()
}
