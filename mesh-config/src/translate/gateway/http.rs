//! HTTPRoute: matches, timeouts, retries.

use std::{collections::HashSet, sync::Arc};

use mesh_policy::model::{
    HeaderMatch, HttpAction, HttpMatch, HttpRule, PathMatch, Pattern, QueryMatch, RetryCondition, RetryOn, RetryPolicy, TextMatch,
};

use super::{
    super::Report,
    Placed, Rank, Rules,
    backend::Backends,
    filter, origin,
    values::{header_name, without_slash},
};
use crate::{
    kinds::gateway::{
        HttpRouteMatch, HttpRouteRule, HttpRouteSpec, MatchType, PathMatchType, RouteDuration, RoutePath, RouteRetry,
        RouteTimeouts, ValueMatch,
    },
    status::{Code, Level, Message},
};

/// One rule of the model for each match, so that each has its own place.
pub(super) fn rules(spec: &HttpRouteSpec, backends: &Backends<'_>, report: &mut Report) -> Rules {
    let mut rules = Rules::default();
    // As the definition's default: a route without rules is one rule for everything.
    let everything = [HttpRouteRule::default()];
    let written = spec.rules.as_deref().filter(|rules| !rules.is_empty()).unwrap_or(&everything);
    rules.count = written.len();
    for (index, rule) in written.iter().enumerate() {
        let HttpRouteRule { name, matches, filters, backend_refs, timeouts, retry, session_persistence } = rule;
        let at = format!("spec.rules[{index}]");
        if session_persistence.is_some() {
            session_is_not_kept(&at, backends, report);
        }
        let mut action = filter::action(&at, filters, backend_refs, backends, &mut rules);
        with_limits(&mut action, timeouts.as_ref(), retry.as_ref(), backends.surroundings.retry);
        let action = Arc::new(action);
        let name = rule_name(name.as_deref(), index, backends);
        let everything = [HttpRouteMatch::default()];
        let (matches, written) = if matches.is_empty() { (&everything[..], false) } else { (&matches[..], true) };
        for (number, one) in matches.iter().enumerate() {
            let field = if written { format!("{at}.matches[{number}]") } else { at.clone() };
            let (rank, found) = http_match(one);
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

/// `%ROUTE_NAME%`: what the user called the rule, else route and number, as Istio has it.
pub(super) fn rule_name(name: Option<&str>, index: usize, backends: &Backends<'_>) -> Arc<str> {
    let of_route = &backends.route.name;
    name.map_or_else(|| format!("{}.{}.{index}", of_route.namespace, of_route.name).into(), Arc::from)
}

pub(super) fn session_is_not_kept(at: &str, backends: &Backends<'_>, report: &mut Report) {
    let text = "sessions are not kept: every request is balanced";
    let field = format!("{at}.sessionPersistence");
    report.tell(backends.route.clone(), Message::new(Level::Warning, Code::NotHonoured, field, text));
}

fn http_match(written: &HttpRouteMatch) -> (Rank, HttpMatch) {
    let HttpRouteMatch { path, headers, query_params, method } = written;
    let default = RoutePath::default();
    let RoutePath { r#type, value } = path.as_ref().unwrap_or(&default);
    // Of exact paths no two that differ hold for one request; of expressions the longer is the more particular, as in Istio.
    let (kind, length, path) = match r#type {
        PathMatchType::Exact => (2, 0, PathMatch::Exact(value.as_str().into())),
        PathMatchType::PathPrefix => {
            let prefix = without_slash(value);
            (1, prefix.chars().count(), PathMatch::Segments(prefix))
        }
        PathMatchType::RegularExpression => (0, value.chars().count(), regex_path(value)),
    };
    let headers = self::headers(headers);
    let query = query(query_params);
    let rank = Rank([kind, length, usize::from(method.is_some()), headers.len(), query.len()]);
    let method = method.map(|method| TextMatch::Exact(method.as_str().into()));
    (rank, HttpMatch { path: Some(path), method, headers, query, ..HttpMatch::default() })
}

/// Validation has seen that it is an expression; what could not be one matches no path.
pub(super) fn regex_path(pattern: &str) -> PathMatch {
    Pattern::new(pattern).map_or_else(|_| PathMatch::Exact("".into()), PathMatch::Regex)
}

/// Of several conditions on one header the first counts.
pub(super) fn headers(written: &[ValueMatch]) -> Vec<HeaderMatch> {
    let mut seen = HashSet::new();
    let named = written.iter().filter_map(|header| Some((header_name(&header.name)?, header)));
    let first = named.filter(|(name, _)| seen.insert(name.clone()));
    first.map(|(name, header)| HeaderMatch { name, value: text(header) }).collect()
}

fn query(written: &[ValueMatch]) -> Vec<QueryMatch> {
    let mut seen = HashSet::new();
    let first = written.iter().filter(|parameter| seen.insert(&parameter.name));
    first.map(|parameter| QueryMatch { name: parameter.name.as_str().into(), value: text(parameter) }).collect()
}

fn text(written: &ValueMatch) -> TextMatch {
    let exact = || TextMatch::Exact(written.value.as_str().into());
    match written.r#type {
        MatchType::Exact => exact(),
        MatchType::RegularExpression => Pattern::new(&written.value).map_or_else(|_| exact(), TextMatch::Regex),
    }
}

fn with_limits(action: &mut HttpAction, timeouts: Option<&RouteTimeouts>, retry: Option<&RouteRetry>, of_mesh: &RetryPolicy) {
    let request = timeouts.and_then(|timeouts| timeouts.request);
    let each = timeouts.and_then(|timeouts| timeouts.backend_request).and_then(RouteDuration::limit);
    action.timeout = request.and_then(RouteDuration::limit);
    let policy = retry.map(|retry| policy(retry, of_mesh));
    action.retry = match (policy, each) {
        (None, None) => None,
        (policy, per_try_timeout) => Some(RetryPolicy { per_try_timeout, ..policy.unwrap_or_else(|| of_mesh.clone()) }),
    };
}

/// The statuses that are named, and failures of the connection whatever is named.
fn policy(retry: &RouteRetry, of_mesh: &RetryPolicy) -> RetryPolicy {
    let RouteRetry { codes, attempts, backoff } = retry;
    let mut conditions: std::collections::BTreeSet<RetryCondition> =
        [RetryCondition::ConnectFailure, RetryCondition::RefusedStream, RetryCondition::Reset].into();
    if !codes.is_empty() {
        conditions.insert(RetryCondition::RetriableStatusCodes);
    }
    let on = RetryOn { conditions, statuses: codes.clone(), headers: Vec::new() };
    let wait = backoff.map(|duration| duration.0);
    RetryPolicy {
        attempts: attempts.unwrap_or(of_mesh.attempts),
        on,
        backoff: wait.unwrap_or(of_mesh.backoff),
        shortest_wait: wait.unwrap_or_default(),
        ..of_mesh.clone()
    }
}
