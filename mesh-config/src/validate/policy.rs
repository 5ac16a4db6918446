//! AuthorizationPolicy and PeerAuthentication (istio's `ValidateAuthorizationPolicy`, `ValidatePeerAuthentication`).
//!
//! What is refused here can not be meant; what is meant and can not be enforced is not refused but fails closed
//! (`translate::authorization`).

use mesh_policy::model::PathTemplate;

use super::problem::{Cause, Problem, is_block, is_port};
use crate::{
    kinds::{
        Action, AuthorizationPolicySpec, Condition, Operation, PeerAuthenticationSpec, Rule, Source, TargetRef, WorkloadSelector,
    },
    translate::{is_path_template, requested_header},
};

const TARGETS: usize = 16;

pub(super) fn authorization(spec: &AuthorizationPolicySpec) -> Vec<Problem> {
    let mut problems = attachment(spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs);
    match spec.action {
        Action::Deny | Action::Custom if spec.rules.is_empty() => {
            let reason = "without rules it never matches; write the rule `{}` to match everything";
            problems.push(Problem::new("spec.rules", Cause::Ineffective { reason }));
        }
        Action::Custom if spec.provider.as_ref().is_none_or(|provider| provider.name.is_empty()) => {
            problems.push(Problem::new("spec.provider.name", Cause::Missing));
        }
        Action::Allow | Action::Deny | Action::Audit | Action::Custom => {}
    }
    if spec.provider.is_some() && spec.action != Action::Custom {
        problems.push(Problem::new("spec.provider", Cause::Exclusive { other: "an action other than CUSTOM" }));
    }
    for (index, found) in spec.rules.iter().enumerate() {
        problems.extend(rule(&format!("spec.rules[{index}]"), found));
    }
    problems
}

/// What an object is for: labels, or targets of its own namespace.
pub(super) fn attachment(labels: Option<&WorkloadSelector>, single: Option<&TargetRef>, several: &[TargetRef]) -> Vec<Problem> {
    let mut problems = selector(labels);
    let targets = [single.is_some(), !several.is_empty()];
    if labels.is_some() && targets.contains(&true) {
        problems.push(Problem::new("spec.selector", Cause::Exclusive { other: "targetRefs" }));
    }
    if targets == [true, true] {
        problems.push(Problem::new("spec.targetRef", Cause::Exclusive { other: "targetRefs" }));
    }
    if several.len() > TARGETS {
        problems.push(Problem::new("spec.targetRefs", Cause::TooMany { found: several.len(), limit: TARGETS }));
    }
    let single = single.iter().map(|target| ("spec.targetRef".to_owned(), *target));
    let several = several.iter().enumerate().map(|(index, target)| (format!("spec.targetRefs[{index}]"), target));
    for (field, target) in single.chain(several) {
        problems.extend(target_ref(&field, target));
    }
    problems
}

fn target_ref(at: &str, target: &TargetRef) -> Vec<Problem> {
    let required = [("kind", &target.kind), ("name", &target.name)];
    let mut problems: Vec<Problem> = (required.into_iter())
        .filter(|(_, value)| value.is_empty())
        .map(|(name, _)| Problem::new(format!("{at}.{name}"), Cause::Missing))
        .collect();
    if !target.namespace.is_empty() {
        // Istio refuses it too: a policy protects its own namespace.
        problems.push(Problem::new(format!("{at}.namespace"), Cause::form(&target.namespace, "empty, as it has to be")));
    }
    problems
}

fn rule(at: &str, rule: &Rule) -> Vec<Problem> {
    let mut problems = Vec::new();
    if rule.from.as_ref().is_some_and(Vec::is_empty) {
        problems.push(Problem::new(format!("{at}.from"), Cause::Empty));
    }
    if rule.to.as_ref().is_some_and(Vec::is_empty) {
        problems.push(Problem::new(format!("{at}.to"), Cause::Empty));
    }
    for (index, from) in rule.from.iter().flatten().enumerate() {
        let field = format!("{at}.from[{index}].source");
        match &from.source {
            None => problems.push(Problem::new(field, Cause::Missing)),
            Some(found) if *found == Source::default() => problems.push(Problem::new(field, Cause::Empty)),
            Some(found) => problems.extend(source(&field, found)),
        }
    }
    for (index, to) in rule.to.iter().flatten().enumerate() {
        let field = format!("{at}.to[{index}].operation");
        match &to.operation {
            None => problems.push(Problem::new(field, Cause::Missing)),
            Some(found) if *found == Operation::default() => problems.push(Problem::new(field, Cause::Empty)),
            Some(found) => problems.extend(operation(&field, found)),
        }
    }
    for (index, found) in rule.when.iter().enumerate() {
        problems.extend(condition(&format!("{at}.when[{index}]"), found));
    }
    problems
}

fn source(at: &str, source: &Source) -> Vec<Problem> {
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
    let mut problems = Vec::new();
    let named = [principals, not_principals, namespaces, not_namespaces].iter().any(|values| !values.is_empty());
    if named && !(service_accounts.is_empty() && not_service_accounts.is_empty()) {
        let other = "principals or namespaces";
        problems.push(Problem::new(format!("{at}.serviceAccounts"), Cause::Exclusive { other }));
    }
    let texts = [
        ("principals", principals),
        ("notPrincipals", not_principals),
        ("requestPrincipals", request_principals),
        ("notRequestPrincipals", not_request_principals),
        ("namespaces", namespaces),
        ("notNamespaces", not_namespaces),
        ("trustDomains", trust_domains),
        ("notTrustDomains", not_trust_domains),
    ];
    for (name, values) in texts {
        problems.extend(each(at, name, values, not_empty));
    }
    let accounts = [("serviceAccounts", service_accounts), ("notServiceAccounts", not_service_accounts)];
    for (name, values) in accounts {
        problems.extend(each(at, name, values, service_account));
    }
    let blocks = [
        ("ipBlocks", ip_blocks),
        ("notIpBlocks", not_ip_blocks),
        ("remoteIpBlocks", remote_ip_blocks),
        ("notRemoteIpBlocks", not_remote_ip_blocks),
    ];
    for (name, values) in blocks {
        problems.extend(each(at, name, values, block));
    }
    problems
}

fn operation(at: &str, operation: &Operation) -> Vec<Problem> {
    let Operation { hosts, not_hosts, ports, not_ports, methods, not_methods, paths, not_paths } = operation;
    let mut problems = Vec::new();
    let texts = [("hosts", hosts), ("notHosts", not_hosts), ("methods", methods), ("notMethods", not_methods)];
    for (name, values) in texts {
        problems.extend(each(at, name, values, not_empty));
    }
    for (name, values) in [("paths", paths), ("notPaths", not_paths)] {
        problems.extend(each(at, name, values, path));
    }
    for (name, values) in [("ports", ports), ("notPorts", not_ports)] {
        problems.extend(each(at, name, values, port));
    }
    problems
}

fn condition(at: &str, condition: &Condition) -> Vec<Problem> {
    let Condition { key, values, not_values } = condition;
    let mut problems = Vec::new();
    if key.is_empty() {
        problems.push(Problem::new(format!("{at}.key"), Cause::Missing));
    }
    if values.is_empty() && not_values.is_empty() {
        problems.push(Problem::new(format!("{at}.values"), Cause::Empty));
    }
    let judge: fn(&str) -> Option<Cause> = match key.as_str() {
        "source.ip" | "remote.ip" | "destination.ip" => block,
        "destination.port" => port,
        "source.serviceAccount" => service_account,
        other => {
            if other.starts_with("request.headers") && requested_header(other).is_none() {
                problems.push(Problem::new(format!("{at}.key"), Cause::form(key, "`request.headers[NAME]`")));
            }
            not_empty
        }
    };
    problems.extend(each(at, "values", values, judge));
    problems.extend(each(at, "notValues", not_values, judge));
    problems
}

fn each(at: &str, name: &str, values: &[String], judge: impl Fn(&str) -> Option<Cause>) -> Vec<Problem> {
    (values.iter().enumerate())
        .filter_map(|(index, value)| Some(Problem::new(format!("{at}.{name}[{index}]"), judge(value)?)))
        .collect()
}

fn not_empty(value: &str) -> Option<Cause> {
    value.is_empty().then_some(Cause::Empty)
}

fn path(value: &str) -> Option<Cause> {
    if is_path_template(value) {
        return PathTemplate::new(value).err().map(|error| Cause::Type { message: error.to_string() });
    }
    not_empty(value)
}

fn block(value: &str) -> Option<Cause> {
    (!is_block(value)).then(|| Cause::form(value, "an address or range"))
}

fn port(value: &str) -> Option<Cause> {
    (!is_port(value)).then(|| Cause::form(value, "a port"))
}

fn service_account(value: &str) -> Option<Cause> {
    let parts: Vec<&str> = value.split('/').collect();
    let valid = parts.len() <= 2 && parts.iter().all(|part| !part.is_empty()) && !value.contains('*') && value.len() <= 320;
    (!valid).then(|| Cause::form(value, "a service account (`name` or `namespace/name`)"))
}

fn selector(selector: Option<&WorkloadSelector>) -> Vec<Problem> {
    let labels = selector.into_iter().flat_map(|selector| &selector.match_labels);
    labels
        .filter(|(key, value)| key.is_empty() || key.contains('*') || value.contains('*'))
        .map(|(key, _)| Problem::new("spec.selector.matchLabels", Cause::form(key, "a label without wildcards")))
        .collect()
}

pub(super) fn peer_authentication(spec: &PeerAuthenticationSpec) -> Vec<Problem> {
    let mut problems = selector(spec.selector.as_ref());
    let Some(ports) = &spec.port_level_mtls else {
        return problems;
    };
    if spec.selector.as_ref().is_none_or(|selector| selector.match_labels.is_empty()) {
        let other = "no selector: only workloads have ports";
        problems.push(Problem::new("spec.portLevelMtls", Cause::Exclusive { other }));
    }
    if ports.is_empty() {
        problems.push(Problem::new("spec.portLevelMtls", Cause::Empty));
    }
    for number in ports.keys().filter(|number| !is_port(number)) {
        problems.push(Problem::new(format!("spec.portLevelMtls.{number}"), Cause::form(number, "a port")));
    }
    problems
}
