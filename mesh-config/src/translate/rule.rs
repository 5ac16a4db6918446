//! Rules of an AuthorizationPolicy to what can be judged, never failing open.
//!
//! A rule that allows and says anything that cannot be judged never matches. A rule that denies loses only the attribute
//! that cannot be judged; an entry that has lost all its attributes matches everything. Attributes of HTTP requests stay
//! where they are: the engine knows what they mean where there is no request.

use std::sync::Arc;

use mesh_policy::model::{
    self, Clause, HeaderCondition, IpMatch, Match, Mesh, PathPattern, PathTemplate, ServiceAccountMatch, StringMatch,
    TrustDomain, header,
};

use super::network::{block, port};
use crate::kinds::{Condition, Operation, Rule, Source};

/// What a match means. CUSTOM denies: its provider is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Allow,
    Deny,
}

/// What rules are read with.
pub(super) struct Reader<'a> {
    pub(super) effect: Effect,
    pub(super) namespace: &'a str,
    pub(super) mesh: &'a Mesh,
    pub(super) ports: Ports,
}

/// What port numbers in a policy refer to.
pub(super) enum Ports {
    /// The port of the workload itself.
    OfWorkload,
    /// A port of the service that the policy is attached to; its pods serve it on these ports.
    OfService(Vec<(u16, u16)>),
}

/// A rule as it is enforced, and the fields of it that could not be.
pub(super) struct Outcome {
    /// None: never matches.
    pub(super) rule: Option<model::Rule>,
    pub(super) not_enforced: Vec<String>,
    /// Somebody was named whom the rule does not name any more: by a principal that could not be read, which may have been
    /// anybody's, or beside everybody.
    pub(super) principals_lost: bool,
}

impl Reader<'_> {
    /// Reads one rule; `at` is its path.
    pub(super) fn rule(&self, at: &str, rule: &Rule) -> Outcome {
        let mut not_enforced = Vec::new();
        let mut clauses = Vec::new();
        let mut everybody = false;
        if let Some(from) = &rule.from {
            let sources = from.iter().enumerate().filter_map(|(index, from)| Some((index, from.source.as_ref()?)));
            let entries = sources.map(|(index, source)| self.source(&format!("{at}.from[{index}].source"), source));
            let found = clause(entries, &mut not_enforced);
            everybody = found.is_none();
            clauses.extend(found);
        }
        if let Some(to) = &rule.to {
            let operations = to.iter().enumerate().filter_map(|(index, to)| Some((index, to.operation.as_ref()?)));
            let entries = operations.map(|(index, operation)| self.operation(&format!("{at}.to[{index}].operation"), operation));
            clauses.extend(clause(entries, &mut not_enforced));
        }
        for (index, condition) in rule.when.iter().enumerate() {
            let entry = self.condition(&format!("{at}.when[{index}]"), condition);
            clauses.extend(clause([entry], &mut not_enforced));
        }
        let never = self.effect == Effect::Allow && !not_enforced.is_empty();
        let principals_lost = self.loses_principals(rule) || (everybody && names_somebody(rule));
        Outcome { rule: (!never).then_some(model::Rule { clauses }), not_enforced, principals_lost }
    }

    fn loses_principals(&self, rule: &Rule) -> bool {
        let sources = rule.from.iter().flatten().filter_map(|from| from.source.as_ref());
        let in_conditions = rule.when.iter().filter(|condition| condition.key == "source.principal");
        let mut written =
            sources.flat_map(|source| &source.principals).chain(in_conditions.flat_map(|condition| &condition.values));
        written.any(|value| self.principals(value).is_none())
    }

    fn source(&self, at: &str, source: &Source) -> Entry {
        let Source {
            principals,
            not_principals,
            request_principals,
            not_request_principals,
            namespaces,
            not_namespaces,
            service_accounts,
            not_service_accounts,
            ip_blocks,
            not_ip_blocks,
            remote_ip_blocks,
            not_remote_ip_blocks,
            trust_domains,
            not_trust_domains,
        } = source;
        let mut entry = Entry::default();
        let of_tokens = [("requestPrincipals", request_principals), ("notRequestPrincipals", not_request_principals)];
        for (name, _) in of_tokens.into_iter().filter(|(_, values)| !values.is_empty()) {
            entry.cannot(at, name);
        }
        let found = &mut entry.found;
        let lost = &mut entry.not_enforced;
        take(at, "principals", principals, |v| self.principals(v), &mut found.principals, lost);
        take(at, "notPrincipals", not_principals, |v| self.principals(v), &mut found.not_principals, lost);
        take(at, "namespaces", namespaces, |v| string(v).map(one), &mut found.namespaces, lost);
        take(at, "notNamespaces", not_namespaces, |v| string(v).map(one), &mut found.not_namespaces, lost);
        take(at, "serviceAccounts", service_accounts, |v| Some(vec![self.account(v)]), &mut found.service_accounts, lost);
        let accounts = &mut found.not_service_accounts;
        take(at, "notServiceAccounts", not_service_accounts, |v| Some(vec![self.account(v)]), accounts, lost);
        take(at, "ipBlocks", ip_blocks, ip, &mut found.source_ips, lost);
        take(at, "notIpBlocks", not_ip_blocks, ip, &mut found.not_source_ips, lost);
        take(at, "remoteIpBlocks", remote_ip_blocks, ip, &mut found.request.remote_ips, lost);
        take(at, "notRemoteIpBlocks", not_remote_ip_blocks, ip, &mut found.request.not_remote_ips, lost);
        // A trust domain is how a principal begins: it can be said where no principal is said beside it.
        if trust_domains.is_empty() || found.principals.is_empty() {
            take(at, "trustDomains", trust_domains, |v| self.trust_domains(v), &mut found.principals, lost);
        } else {
            lost.push(format!("{at}.trustDomains"));
        }
        take(at, "notTrustDomains", not_trust_domains, |v| self.trust_domains(v), &mut found.not_principals, lost);
        entry
    }

    fn operation(&self, at: &str, operation: &Operation) -> Entry {
        let Operation { hosts, not_hosts, ports, not_ports, methods, not_methods, paths, not_paths } = operation;
        let mut entry = Entry::default();
        let request = &mut entry.found.request;
        let lost = &mut entry.not_enforced;
        take(at, "hosts", hosts, |v| string(v).map(one), &mut request.hosts, lost);
        take(at, "notHosts", not_hosts, |v| string(v).map(one), &mut request.not_hosts, lost);
        take(at, "methods", methods, |v| string(v).map(one), &mut request.methods, lost);
        take(at, "notMethods", not_methods, |v| string(v).map(one), &mut request.not_methods, lost);
        take(at, "paths", paths, |v| path(v).map(one), &mut request.paths, lost);
        take(at, "notPaths", not_paths, |v| path(v).map(one), &mut request.not_paths, lost);
        self.ports(at, ["ports", "notPorts"], [ports, not_ports], &mut entry);
        entry
    }

    fn condition(&self, at: &str, condition: &Condition) -> Entry {
        let Condition { key, values, not_values } = condition;
        let mut entry = Entry::default();
        let found = &mut entry.found;
        let lost = &mut entry.not_enforced;
        let names = ["values", "notValues"];
        match key.as_str() {
            "source.ip" => {
                take(at, names[0], values, ip, &mut found.source_ips, lost);
                take(at, names[1], not_values, ip, &mut found.not_source_ips, lost);
            }
            "source.namespace" => {
                take(at, names[0], values, |v| string(v).map(one), &mut found.namespaces, lost);
                take(at, names[1], not_values, |v| string(v).map(one), &mut found.not_namespaces, lost);
            }
            "source.principal" => {
                take(at, names[0], values, |v| self.principals(v), &mut found.principals, lost);
                take(at, names[1], not_values, |v| self.principals(v), &mut found.not_principals, lost);
            }
            "source.serviceAccount" => {
                take(at, names[0], values, |v| Some(vec![self.account(v)]), &mut found.service_accounts, lost);
                take(at, names[1], not_values, |v| Some(vec![self.account(v)]), &mut found.not_service_accounts, lost);
            }
            "source.trustDomain" => {
                take(at, names[0], values, |v| self.trust_domains(v), &mut found.principals, lost);
                take(at, names[1], not_values, |v| self.trust_domains(v), &mut found.not_principals, lost);
            }
            // Behind a service the client dialled the service's address, which the pod never sees.
            "destination.ip" if matches!(self.ports, Ports::OfWorkload) => {
                take(at, names[0], values, ip, &mut found.destination_ips, lost);
                take(at, names[1], not_values, ip, &mut found.not_destination_ips, lost);
            }
            "destination.port" => self.ports(at, names, [values, not_values], &mut entry),
            "remote.ip" => {
                take(at, names[0], values, ip, &mut found.request.remote_ips, lost);
                take(at, names[1], not_values, ip, &mut found.request.not_remote_ips, lost);
            }
            other if let Some(name) = requested_header(other) => {
                let mut header = HeaderCondition { name, values: Vec::new(), not_values: Vec::new() };
                take(at, names[0], values, |v| string(v).map(one), &mut header.values, lost);
                take(at, names[1], not_values, |v| string(v).map(one), &mut header.not_values, lost);
                // What is left of it, if a part is lost; nothing, if all is.
                if !(header.values.is_empty() && header.not_values.is_empty()) {
                    found.request.headers.push(header);
                }
            }
            unknown => lost.push(format!("{at}.key ({unknown})")),
        }
        entry
    }

    /// Ports, and where they are a service's, the ports that its pods serve them on. What is unsure makes an ALLOW
    /// narrower and a DENY broader.
    fn ports(&self, at: &str, names: [&str; 2], values: [&[String]; 2], entry: &mut Entry) {
        let [positive, negative] = values;
        let own = |value: &str| port(value).map(one);
        let Ports::OfService(served) = &self.ports else {
            take(at, names[0], positive, own, &mut entry.found.destination_ports, &mut entry.not_enforced);
            take(at, names[1], negative, own, &mut entry.found.not_destination_ports, &mut entry.not_enforced);
            return;
        };
        let targets = |value: &str| {
            let wanted = port(value)?;
            let targets = served.iter().filter(|(service, _)| *service == wanted).map(|(_, target)| *target);
            Some((wanted, targets.collect::<Vec<_>>()))
        };
        let widest = |value: &str| targets(value).map(|(own, mut targets)| [vec![own], std::mem::take(&mut targets)].concat());
        let narrowest = |value: &str| targets(value).map(|(_, targets)| targets);
        let Entry { found, not_enforced, never } = entry;
        match self.effect {
            Effect::Allow => {
                take(at, names[0], positive, narrowest, &mut found.destination_ports, not_enforced);
                // No pod serves any of these ports: nothing is allowed, rather than everything.
                *never = !positive.is_empty() && found.destination_ports.is_empty();
                take(at, names[1], negative, widest, &mut found.not_destination_ports, not_enforced);
            }
            Effect::Deny => {
                take(at, names[0], positive, widest, &mut found.destination_ports, not_enforced);
                take(at, names[1], negative, narrowest, &mut found.not_destination_ports, not_enforced);
            }
        }
    }

    fn account(&self, value: &str) -> ServiceAccountMatch {
        let (namespace, name) = value.split_once('/').unwrap_or((self.namespace, value));
        ServiceAccountMatch { namespace: namespace.into(), name: name.into() }
    }

    /// A principal, once for each trust domain that counts as the one that it names. `cluster.local` always names the
    /// mesh's own, as in Istio.
    fn principals(&self, value: &str) -> Option<Vec<StringMatch>> {
        let value = value.strip_prefix("spiffe://").unwrap_or(value);
        let found = string(value)?;
        let named = match &found {
            StringMatch::Exact(text) | StringMatch::Prefix(text) => text.split_once('/'),
            StringMatch::Suffix(_) | StringMatch::Presence => None,
        };
        let Some((_, path)) = named.filter(|(domain, _)| self.is_ours(domain)) else {
            return Some(vec![found]);
        };
        let with = |domain: &TrustDomain| {
            let text: Arc<str> = format!("{domain}/{path}").into();
            match &found {
                StringMatch::Prefix(_) => StringMatch::Prefix(text),
                _ => StringMatch::Exact(text),
            }
        };
        Some(self.our_domains().map(with).collect())
    }

    fn trust_domains(&self, value: &str) -> Option<Vec<StringMatch>> {
        match string(value)? {
            StringMatch::Presence => Some(vec![StringMatch::Presence]),
            StringMatch::Prefix(prefix) => Some(vec![StringMatch::Prefix(prefix)]),
            StringMatch::Exact(domain) if self.is_ours(&domain) => {
                Some(self.our_domains().map(|domain| StringMatch::Prefix(format!("{domain}/").into())).collect())
            }
            StringMatch::Exact(domain) => Some(vec![StringMatch::Prefix(format!("{domain}/").into())]),
            // How a principal goes on behind its trust domain is not said here.
            StringMatch::Suffix(_) => None,
        }
    }

    fn our_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        std::iter::once(&self.mesh.trust_domain).chain(&self.mesh.trust_domain_aliases)
    }

    fn is_ours(&self, domain: &str) -> bool {
        domain == "cluster.local" || self.our_domains().any(|own| own.as_str() == domain)
    }
}

/// One `source`, `operation` or condition as far as it can be judged.
#[derive(Default)]
struct Entry {
    found: Match,
    not_enforced: Vec<String>,
    /// Holds for no connection.
    never: bool,
}

impl Entry {
    fn cannot(&mut self, at: &str, name: &str) {
        self.not_enforced.push(format!("{at}.{name}"));
    }
}

fn names_somebody(rule: &Rule) -> bool {
    let mut sources = rule.from.iter().flatten().filter_map(|from| from.source.as_ref());
    sources.any(|source| !source.principals.is_empty() || !source.service_accounts.is_empty())
}

/// Any of the entries must hold. An entry without attributes always does, and so does its clause, which is left out. When
/// no entry is left that could hold, the clause never does: the model says that by a match without attributes.
fn clause(entries: impl IntoIterator<Item = Entry>, not_enforced: &mut Vec<String>) -> Option<Clause> {
    let mut always = false;
    let mut matches = Vec::new();
    for entry in entries {
        not_enforced.extend(entry.not_enforced);
        if !entry.never {
            always |= entry.found == Match::default();
            matches.push(entry.found);
        }
    }
    if matches.is_empty() {
        matches.push(Match::default());
    }
    (!always).then_some(Clause { matches })
}

/// Adds every value of an attribute, or none: an attribute that has lost some of its values would say something else.
fn take<T>(
    at: &str,
    name: &str,
    values: &[String],
    read: impl Fn(&str) -> Option<Vec<T>>,
    into: &mut Vec<T>,
    lost: &mut Vec<String>,
) {
    match values.iter().map(|value| read(value)).collect::<Option<Vec<_>>>() {
        Some(found) => into.extend(found.into_iter().flatten()),
        None => lost.push(format!("{at}.{name}")),
    }
}

fn one<T>(value: T) -> Vec<T> {
    vec![value]
}

/// `*`, `*suffix`, `prefix*` or the text itself. A star elsewhere means nothing that could be matched.
fn string(value: &str) -> Option<StringMatch> {
    let found = match value {
        "*" => return Some(StringMatch::Presence),
        _ => match (value.strip_prefix('*'), value.strip_suffix('*')) {
            (Some(suffix), _) => StringMatch::Suffix(suffix.into()),
            (None, Some(prefix)) => StringMatch::Prefix(prefix.into()),
            (None, None) => StringMatch::Exact(value.into()),
        },
    };
    let text = match &found {
        StringMatch::Exact(text) | StringMatch::Prefix(text) | StringMatch::Suffix(text) => text,
        StringMatch::Presence => return Some(found),
    };
    (!text.contains('*')).then_some(found)
}

/// A path, or a template of one.
fn path(value: &str) -> Option<PathPattern> {
    if is_path_template(value) {
        return PathTemplate::new(value).ok().map(PathPattern::Template);
    }
    string(value).map(PathPattern::Text)
}

/// Whether a path is meant as a template: it has an operator of one.
pub(crate) fn is_path_template(value: &str) -> bool {
    value.contains("{*}") || value.contains("{**}")
}

/// The header that a condition `request.headers[NAME]` is about.
pub(crate) fn requested_header(key: &str) -> Option<header::Name> {
    let name = key.strip_prefix("request.headers[")?.strip_suffix(']')?;
    name.parse().ok().map(header::Name)
}

fn ip(value: &str) -> Option<Vec<IpMatch>> {
    block(value).map(|net| vec![IpMatch(net)])
}
