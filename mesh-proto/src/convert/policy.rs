//! `istio.security.Authorization`.
//!
//! Both sides mean the same by their shapes: a clause without matches always holds, and a match without attributes never
//! does, which is how an authority says that something stood there which this version can not judge.

use mesh_policy::model::{self, Action, Clause, IpMatch, Match, PolicyKey, Rule, Scope, ServiceAccountMatch, StringMatch};

use super::{
    error::{At, Cause, ConvertError},
    extension::{request, wire_request},
    network::{bytes_of, known, port, prefix},
};
use crate::authorization::{self as wire, string_match::MatchType};

impl TryFrom<wire::Authorization> for model::Authorization {
    type Error = ConvertError;

    fn try_from(policy: wire::Authorization) -> Result<Self, Self::Error> {
        let wire::Authorization { name, namespace, scope, action, rules, dry_run, extensions } = policy;
        let key = format!("{namespace}/{name}");
        let at = At { kind: "Authorization", name: &key };
        for (field, value) in [("namespace", &namespace), ("name", &name)] {
            if value.is_empty() {
                return Err(at.refuse(field, Cause::Empty));
            }
        }
        // An extension may say what the policy means: without understanding it, nothing may be enforced.
        if !extensions.is_empty() {
            return Err(at.refuse("extensions", Cause::Unsupported));
        }
        let rules = (rules.into_iter().enumerate())
            .map(|(index, wanted)| rule(wanted).map_err(|(field, cause)| at.refuse(format!("rules[{index}].{field}"), cause)))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            scope: match known(scope).map_err(|cause| at.refuse("scope", cause))? {
                wire::Scope::Global => Scope::Global,
                wire::Scope::Namespace => Scope::Namespace,
                wire::Scope::WorkloadSelector => Scope::Workload,
            },
            action: match known(action).map_err(|cause| at.refuse("action", cause))? {
                wire::Action::Allow => Action::Allow,
                wire::Action::Deny => Action::Deny,
            },
            key: PolicyKey { namespace: namespace.as_str().into(), name: name.as_str().into() },
            dry_run,
            rules,
        })
    }
}

impl From<&model::Authorization> for wire::Authorization {
    fn from(policy: &model::Authorization) -> Self {
        let model::Authorization { key: PolicyKey { namespace, name }, scope, action, dry_run, rules } = policy;
        Self {
            name: name.to_string(),
            namespace: namespace.to_string(),
            scope: match scope {
                Scope::Global => wire::Scope::Global,
                Scope::Namespace => wire::Scope::Namespace,
                Scope::Workload => wire::Scope::WorkloadSelector,
            } as i32,
            action: match action {
                Action::Allow => wire::Action::Allow,
                Action::Deny => wire::Action::Deny,
            } as i32,
            rules: rules.iter().map(wire_rule).collect(),
            dry_run: *dry_run,
            extensions: Vec::new(),
        }
    }
}

type FieldError = (String, Cause);

fn rule(rule: wire::Rule) -> Result<Rule, FieldError> {
    let clauses = (rule.clauses.into_iter().enumerate())
        .map(|(index, wanted)| clause(wanted).map_err(|(field, cause)| (format!("clauses[{index}].{field}"), cause)))
        .collect::<Result<_, _>>()?;
    Ok(Rule { clauses })
}

fn wire_rule(rule: &Rule) -> wire::Rule {
    wire::Rule { clauses: rule.clauses.iter().map(wire_clause).collect() }
}

fn clause(clause: wire::Clause) -> Result<Clause, FieldError> {
    let matches = (clause.matches.into_iter().enumerate())
        .map(|(index, wanted)| attributes(wanted).map_err(|(field, cause)| (format!("matches[{index}].{field}"), cause)))
        .collect::<Result<_, _>>()?;
    Ok(Clause { matches })
}

fn wire_clause(clause: &Clause) -> wire::Clause {
    wire::Clause { matches: clause.matches.iter().map(wire_attributes).collect() }
}

fn attributes(attributes: wire::Match) -> Result<Match, FieldError> {
    let wire::Match {
        namespaces,
        not_namespaces,
        service_accounts: accounts,
        not_service_accounts,
        principals,
        not_principals,
        source_ips,
        not_source_ips,
        destination_ips,
        not_destination_ips,
        destination_ports,
        not_destination_ports,
        extensions,
    } = attributes;
    Ok(Match {
        namespaces: each("namespaces", namespaces, string)?,
        not_namespaces: each("not_namespaces", not_namespaces, string)?,
        service_accounts: each("service_accounts", accounts, service_account)?,
        not_service_accounts: each("not_service_accounts", not_service_accounts, service_account)?,
        principals: each("principals", principals, string)?,
        not_principals: each("not_principals", not_principals, string)?,
        source_ips: each("source_ips", source_ips, ip)?,
        not_source_ips: each("not_source_ips", not_source_ips, ip)?,
        destination_ips: each("destination_ips", destination_ips, ip)?,
        not_destination_ips: each("not_destination_ips", not_destination_ips, ip)?,
        destination_ports: each("destination_ports", destination_ports, port)?,
        not_destination_ports: each("not_destination_ports", not_destination_ports, port)?,
        request: request(&extensions).map_err(|cause| ("extensions".into(), cause))?,
    })
}

fn wire_attributes(attributes: &Match) -> wire::Match {
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
    } = attributes;
    let strings = |values: &[StringMatch]| values.iter().map(wire_string).collect();
    let accounts = |values: &[ServiceAccountMatch]| values.iter().map(wire_service_account).collect();
    let ips = |values: &[IpMatch]| values.iter().map(wire_ip).collect();
    let ports = |values: &[u16]| values.iter().map(|port| u32::from(*port)).collect();
    wire::Match {
        namespaces: strings(namespaces),
        not_namespaces: strings(not_namespaces),
        service_accounts: accounts(service_accounts),
        not_service_accounts: accounts(not_service_accounts),
        principals: strings(principals),
        not_principals: strings(not_principals),
        source_ips: ips(source_ips),
        not_source_ips: ips(not_source_ips),
        destination_ips: ips(destination_ips),
        not_destination_ips: ips(not_destination_ips),
        destination_ports: ports(destination_ports),
        not_destination_ports: ports(not_destination_ports),
        extensions: wire_request(request),
    }
}

fn each<T, U>(field: &str, values: Vec<T>, convert: impl Fn(T) -> Result<U, Cause>) -> Result<Vec<U>, FieldError> {
    let one = |(index, value)| convert(value).map_err(|cause| (format!("{field}[{index}]"), cause));
    values.into_iter().enumerate().map(one).collect()
}

fn string(value: wire::StringMatch) -> Result<StringMatch, Cause> {
    Ok(match value.match_type.ok_or(Cause::EnumValue { value: 0 })? {
        MatchType::Exact(text) => StringMatch::Exact(text.into()),
        MatchType::Prefix(text) => StringMatch::Prefix(text.into()),
        MatchType::Suffix(text) => StringMatch::Suffix(text.into()),
        MatchType::Presence(()) => StringMatch::Presence,
    })
}

fn wire_string(value: &StringMatch) -> wire::StringMatch {
    let match_type = match value {
        StringMatch::Exact(text) => MatchType::Exact(text.to_string()),
        StringMatch::Prefix(text) => MatchType::Prefix(text.to_string()),
        StringMatch::Suffix(text) => MatchType::Suffix(text.to_string()),
        StringMatch::Presence => MatchType::Presence(()),
    };
    wire::StringMatch { match_type: Some(match_type) }
}

fn service_account(value: wire::ServiceAccountMatch) -> Result<ServiceAccountMatch, Cause> {
    let wire::ServiceAccountMatch { namespace, service_account } = value;
    if namespace.is_empty() || service_account.is_empty() {
        return Err(Cause::Empty);
    }
    Ok(ServiceAccountMatch { namespace: namespace.into(), name: service_account.into() })
}

fn wire_service_account(value: &ServiceAccountMatch) -> wire::ServiceAccountMatch {
    wire::ServiceAccountMatch { namespace: value.namespace.to_string(), service_account: value.name.to_string() }
}

fn ip(wire::Address { address, length }: wire::Address) -> Result<IpMatch, Cause> {
    prefix(&address, length).map(IpMatch)
}

fn wire_ip(value: &IpMatch) -> wire::Address {
    wire::Address { address: bytes_of(value.0.addr()), length: value.0.prefix_len().into() }
}
