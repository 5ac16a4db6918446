//! GRPCRoute: a method is a path, `/service/method`.

use std::sync::Arc;

use mesh_policy::model::{HttpMatch, HttpRule, PathMatch};

use super::{
    super::Report,
    Placed, Rank, Rules,
    backend::Backends,
    filter,
    http::{headers, regex_path, rule_name, session_is_not_kept},
    origin,
};
use crate::kinds::gateway::{GrpcMatch, GrpcMethod, GrpcMethodType, GrpcRouteRule, GrpcRouteSpec};

pub(super) fn rules(spec: &GrpcRouteSpec, backends: &Backends<'_>, report: &mut Report) -> Rules {
    let mut rules = Rules { count: spec.rules.len(), ..Rules::default() };
    for (index, rule) in spec.rules.iter().enumerate() {
        let GrpcRouteRule { name, matches, filters, backend_refs, session_persistence } = rule;
        let at = format!("spec.rules[{index}]");
        if session_persistence.is_some() {
            session_is_not_kept(&at, backends, report);
        }
        let action = Arc::new(filter::action(&at, filters, backend_refs, backends, &mut rules));
        let name = rule_name(name.as_deref(), index, backends);
        let everything = [GrpcMatch::default()];
        let (matches, written) = if matches.is_empty() { (&everything[..], false) } else { (&matches[..], true) };
        for (number, one) in matches.iter().enumerate() {
            let field = if written { format!("{at}.matches[{number}]") } else { at.clone() };
            let (rank, found) = grpc_match(one);
            let rule = HttpRule {
                name: name.clone(),
                origin: origin(backends.route, field),
                matches: vec![found],
                action: action.clone(),
            };
            rules.http.push(Placed { rank, place: (index, number), rule });
        }
    }
    rules
}

/// Exact names come before expressions, which the specification leaves open.
fn grpc_match(written: &GrpcMatch) -> (Rank, HttpMatch) {
    let GrpcMatch { method, headers: written_headers } = written;
    let default = GrpcMethod::default();
    let GrpcMethod { r#type, service, method } = method.as_ref().unwrap_or(&default);
    let [service, method] = [service, method].map(|name| name.as_deref().filter(|name| !name.is_empty()));
    let path = match (r#type, service, method) {
        (_, None, None) => None,
        (GrpcMethodType::Exact, Some(service), Some(method)) => Some(PathMatch::Exact(format!("/{service}/{method}").into())),
        (GrpcMethodType::Exact, Some(service), None) => Some(PathMatch::Prefix(format!("/{service}/").into())),
        // Nothing in the name of a method means more than itself in an expression.
        (GrpcMethodType::Exact, None, Some(method)) => Some(regex_path(&format!("/[^/]+/{method}"))),
        (GrpcMethodType::RegularExpression, service, method) => {
            let [service, method] =
                [service, method].map(|part| part.map_or_else(|| "[^/]+".to_owned(), |part| format!("(?:{part})")));
            Some(regex_path(&format!("/{service}/{method}")))
        }
    };
    let kind = match (r#type, &path) {
        (_, None) => 0,
        (GrpcMethodType::RegularExpression, _) => 1,
        (GrpcMethodType::Exact, _) => 2,
    };
    let length = |name: Option<&str>| name.map_or(0, |name| name.chars().count());
    let headers = headers(written_headers);
    let rank = Rank([kind, length(service), length(method), headers.len(), 0]);
    (rank, HttpMatch { path, headers, ..HttpMatch::default() })
}
