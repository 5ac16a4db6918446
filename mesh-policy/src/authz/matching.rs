//! What one policy matches: on identities, addresses, ports, and on the request if there is one.
//!
//! The corner cases are ztunnel's `Authorization::matches`: a policy without rules never matches, a rule without
//! clauses does, a clause without matches does, a match without attributes never does.

use std::{cell::OnceCell, net::IpAddr};

use ipnet::{IpNet, Ipv4Net};

use super::{Connection, request};
use crate::{
    http::Request,
    model::{Action, Authorization, Clause, Identity, IpMatch, Match, Rule, ServiceAccountMatch, StringMatch},
};

/// A connection and its request in the form that is compared: addresses canonical, the principal written out once if it
/// is needed.
pub(super) struct Facts<'a> {
    identity: Option<&'a Identity>,
    principal: OnceCell<String>,
    pub(super) source_ip: IpAddr,
    destination_ip: IpAddr,
    destination_port: u16,
    /// None: the traffic is not HTTP, or is judged before its first request.
    pub(super) request: Option<&'a Request<'a>>,
}

impl<'a> Facts<'a> {
    pub(super) fn of(connection: &Connection<'a>, request: Option<&'a Request<'a>>) -> Self {
        let Connection { source_identity, source_ip, destination_ip, destination_port } = *connection;
        Self {
            identity: source_identity,
            principal: OnceCell::new(),
            source_ip: source_ip.to_canonical(),
            destination_ip: destination_ip.to_canonical(),
            destination_port,
            request,
        }
    }
}

/// The first rule of a policy that matches, whatever its action.
pub(super) fn matching_rule(policy: &Authorization, facts: &Facts<'_>) -> Option<usize> {
    policy.rules.iter().position(|rule| rule_matches(rule, policy.action, facts))
}

fn rule_matches(rule: &Rule, action: Action, facts: &Facts<'_>) -> bool {
    rule.clauses.iter().all(|clause| clause_matches(clause, action, facts))
}

fn clause_matches(clause: &Clause, action: Action, facts: &Facts<'_>) -> bool {
    clause.matches.is_empty() || clause.matches.iter().any(|one| match_holds(one, action, facts))
}

fn match_holds(one: &Match, action: Action, facts: &Facts<'_>) -> bool {
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
        request: of_request,
    } = one;
    if *one == Match::default() {
        return false;
    }
    holds(destination_ports, not_destination_ports, |port| *port == facts.destination_port)
        && holds(destination_ips, not_destination_ips, |range| contains(range, facts.destination_ip))
        && holds(source_ips, not_source_ips, |range| contains(range, facts.source_ip))
        && holds(namespaces, not_namespaces, |text| namespace_is(text, facts))
        && holds(service_accounts, not_service_accounts, |account| account_is(account, facts))
        && holds(principals, not_principals, |text| principal_is(text, facts))
        && request::holds_for(of_request, action, facts)
}

/// One attribute: any of its values if it has some, and none of its `not_` values.
pub(super) fn holds<T>(values: &[T], not_values: &[T], is: impl Fn(&T) -> bool) -> bool {
    (values.is_empty() || values.iter().any(&is)) && !not_values.iter().any(&is)
}

// Nobody is in no namespace and no account: without an identity the three never match, and their `not_` forms hold.

fn namespace_is(text: &StringMatch, facts: &Facts<'_>) -> bool {
    facts.identity.is_some_and(|identity| text_is(text, &identity.namespace))
}

fn account_is(account: &ServiceAccountMatch, facts: &Facts<'_>) -> bool {
    let ServiceAccountMatch { namespace, name } = account;
    facts.identity.is_some_and(|identity| identity.namespace == *namespace && identity.service_account == *name)
}

fn principal_is(text: &StringMatch, facts: &Facts<'_>) -> bool {
    facts.identity.is_some_and(|identity| text_is(text, facts.principal.get_or_init(|| identity.principal())))
}

pub(super) fn text_is(text: &StringMatch, value: &str) -> bool {
    match text {
        StringMatch::Exact(exact) => **exact == *value,
        StringMatch::Prefix(prefix) => value.starts_with(&**prefix),
        StringMatch::Suffix(suffix) => value.ends_with(&**suffix),
        StringMatch::Presence => !value.is_empty(),
    }
}

pub(super) fn contains(range: &IpMatch, address: IpAddr) -> bool {
    canonical(range.0).contains(&address)
}

/// A range of IPv4-mapped IPv6 addresses is the IPv4 range, as the addresses that it is compared with are canonical.
fn canonical(range: IpNet) -> IpNet {
    match range {
        IpNet::V4(_) => range,
        IpNet::V6(v6) => {
            let mapped = v6.prefix_len().checked_sub(96).zip(v6.addr().to_ipv4_mapped());
            let v4 = mapped.and_then(|(length, address)| Ipv4Net::new(address, length).ok());
            v4.map_or(range, IpNet::V4)
        }
    }
}
