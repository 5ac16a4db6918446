//! HTTPRoute and GRPCRoute.

use mesh_policy::model::Pattern;

use super::{
    BACKENDS, RULES, at_most,
    filter::{self, Place},
    parents, reference, rule_names, share,
};
use crate::{
    kinds::gateway::{
        FilterType, GrpcMethod, GrpcMethodType, GrpcRouteSpec, HttpBackend, HttpRouteMatch, HttpRouteRule, HttpRouteSpec,
        MatchType, PathMatchType, RoutePath, RouteRetry, RouteTimeouts, ValueMatch,
    },
    translate::gateway::values::{header_name, header_value},
    validate::problem::{Cause, Problem},
};

const MATCHES: usize = 64;
const PATH: &str =
    "a path (begins with '/', without '//', '/./', '/../', '#', '%2f', and without '/.' or '/..' at its end; at most 1024 bytes)";

pub(in crate::validate) fn http_route(spec: &HttpRouteSpec) -> Vec<Problem> {
    let mut problems = parents(&spec.parent_refs);
    let rules = spec.rules.as_deref().unwrap_or_default();
    problems.extend(at_most("spec.rules", rules.len(), RULES));
    problems.extend(rule_names(rules.iter().map(|rule| rule.name.as_deref())));
    for (index, rule) in rules.iter().enumerate() {
        problems.extend(http_rule(&format!("spec.rules[{index}]"), rule));
    }
    problems
}

fn http_rule(at: &str, rule: &HttpRouteRule) -> Vec<Problem> {
    let HttpRouteRule { name: _, matches, filters, backend_refs, timeouts, retry, session_persistence: _ } = rule;
    let mut problems = at_most(&format!("{at}.matches"), matches.len(), MATCHES);
    for (index, found) in matches.iter().enumerate() {
        let HttpRouteMatch { path, headers, query_params, method: _ } = found;
        let at = format!("{at}.matches[{index}]");
        problems.extend(path.as_ref().and_then(|found| self::path(&format!("{at}.path.value"), found)));
        problems.extend(self::headers(&format!("{at}.headers"), headers));
        for (index, parameter) in query_params.iter().enumerate() {
            let at = format!("{at}.queryParams[{index}]");
            if parameter.name.is_empty() {
                problems.push(Problem::new(format!("{at}.name"), Cause::Missing));
            }
            problems.extend(value(&at, parameter));
        }
    }
    let prefixes_only =
        matches.iter().all(|found| found.path.as_ref().is_none_or(|path| path.r#type == PathMatchType::PathPrefix));
    problems.extend(filter::filters(&format!("{at}.filters"), filters, &Place::HttpRule { prefixes_only }));
    if !backend_refs.is_empty() && filters.iter().any(|filter| filter.r#type == FilterType::RequestRedirect) {
        problems.push(Problem::new(format!("{at}.backendRefs"), Cause::Exclusive { other: "the filter RequestRedirect" }));
    }
    problems.extend(backends(&format!("{at}.backendRefs"), backend_refs, &Place::HttpBackend { prefixes_only }));
    if let Some(RouteTimeouts { request: Some(request), backend_request: Some(backend) }) = timeouts
        && request.limit().is_some_and(|limit| backend.limit().is_none_or(|each| each > limit))
    {
        let wanted = "at most timeouts.request";
        let found = backend.limit().map_or_else(|| "0s".to_owned(), |limit| format!("{limit:?}"));
        problems.push(Problem::new(format!("{at}.timeouts.backendRequest"), Cause::form(found, wanted)));
    }
    if let Some(RouteRetry { codes, attempts: _, backoff: _ }) = retry {
        for (index, code) in codes.iter().enumerate().filter(|(_, code)| !(400..=599).contains(*code)) {
            let cause = Cause::form(code.to_string(), "a status (400 to 599)");
            problems.push(Problem::new(format!("{at}.retry.codes[{index}]"), cause));
        }
    }
    problems
}

pub(in crate::validate) fn grpc_route(spec: &GrpcRouteSpec) -> Vec<Problem> {
    let mut problems = parents(&spec.parent_refs);
    problems.extend(at_most("spec.rules", spec.rules.len(), RULES));
    problems.extend(rule_names(spec.rules.iter().map(|rule| rule.name.as_deref())));
    for (index, rule) in spec.rules.iter().enumerate() {
        let at = format!("spec.rules[{index}]");
        problems.extend(at_most(&format!("{at}.matches"), rule.matches.len(), MATCHES));
        for (index, found) in rule.matches.iter().enumerate() {
            let at = format!("{at}.matches[{index}]");
            problems.extend(found.method.as_ref().map(|method| grpc_method(&format!("{at}.method"), method)).unwrap_or_default());
            problems.extend(headers(&format!("{at}.headers"), &found.headers));
        }
        problems.extend(filter::filters(&format!("{at}.filters"), &rule.filters, &Place::Grpc));
        problems.extend(backends(&format!("{at}.backendRefs"), &rule.backend_refs, &Place::Grpc));
    }
    problems
}

fn grpc_method(at: &str, found: &GrpcMethod) -> Vec<Problem> {
    let parts = [("service", &found.service), ("method", &found.method)];
    let parts = parts.into_iter().filter_map(|(name, value)| Some((name, value.as_deref().filter(|value| !value.is_empty())?)));
    let parts: Vec<(&str, &str)> = parts.collect();
    if parts.is_empty() {
        return vec![Problem::new(at, Cause::Empty)];
    }
    let judge = |(name, value): (&str, &str)| {
        let cause = match found.r#type {
            GrpcMethodType::RegularExpression => pattern(value),
            GrpcMethodType::Exact => {
                let segment = |text: &str| {
                    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                };
                let rest = if name == "service" { value.strip_prefix('.').unwrap_or(value) } else { value };
                let valid = if name == "service" { rest.split('.').all(segment) } else { segment(rest) };
                (!valid).then(|| Cause::form(value, "a name of protobuf"))
            }
        };
        cause.map(|cause| Problem::new(format!("{at}.{name}"), cause))
    };
    parts.into_iter().filter_map(judge).collect()
}

fn path(at: &str, found: &RoutePath) -> Option<Problem> {
    let RoutePath { r#type, value } = found;
    if *r#type == PathMatchType::RegularExpression {
        return pattern(value).map(|cause| Problem::new(at, cause));
    }
    let lower = value.to_ascii_lowercase();
    let valid = value.starts_with('/')
        && value.len() <= 1024
        && !["//", "/./", "/../", "%2f", "#", "?"].iter().any(|part| lower.contains(part))
        && !["/.", "/.."].iter().any(|end| value.ends_with(end));
    (!valid).then(|| Problem::new(at, Cause::form(value, PATH)))
}

fn headers(at: &str, headers: &[ValueMatch]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, header) in headers.iter().enumerate() {
        let at = format!("{at}[{index}]");
        if header_name(&header.name).is_none() {
            problems.push(Problem::new(format!("{at}.name"), Cause::form(&header.name, "the name of a header")));
        }
        problems.extend(value(&at, header));
    }
    problems
}

fn value(at: &str, found: &ValueMatch) -> Option<Problem> {
    let cause = match found.r#type {
        _ if found.value.is_empty() => Some(Cause::Empty),
        MatchType::RegularExpression => pattern(&found.value),
        MatchType::Exact => header_value(&found.value).is_none().then(|| Cause::form(&found.value, "a value")),
    };
    cause.map(|cause| Problem::new(format!("{at}.value"), cause))
}

fn pattern(text: &str) -> Option<Cause> {
    Pattern::new(text).err().map(|error| Cause::Type { message: error.to_string() })
}

fn backends(at: &str, backends: &[HttpBackend], place: &Place) -> Vec<Problem> {
    let mut problems = at_most(at, backends.len(), BACKENDS);
    for (index, backend) in backends.iter().enumerate() {
        let HttpBackend { group, kind, name, namespace: _, port, weight, filters } = backend;
        let at = format!("{at}[{index}]");
        problems.extend(reference(&at, [group, kind, name], *port));
        problems.extend(share(&at, *weight));
        problems.extend(filter::filters(&format!("{at}.filters"), filters, place));
    }
    problems
}
