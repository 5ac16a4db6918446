//! HTTP routes with those that they delegate to in their places (Istio's `MergeHTTPRoutes`).

use std::collections::BTreeMap;

use super::{Sources, key};
use crate::{
    kinds::{
        Name, ObjectKey, VirtualServiceSpec,
        virtual_service::{Destination, HttpMatchRequest, HttpRoute, StringMatch},
    },
    status::{Code, Level, Message},
    translate::{Report, exports::Exports, hosts::Hosts},
};

/// A route, and where it is written.
pub(super) struct Route {
    /// Hosts are whole names.
    pub(super) spec: HttpRoute,
    pub(super) name: Name,
    pub(super) field: String,
}

impl Route {
    pub(super) fn key(&self) -> ObjectKey {
        key(&self.name)
    }
}

pub(super) fn http(sources: Sources<'_>, name: &Name, spec: &VirtualServiceSpec, report: &mut Report) -> Vec<Route> {
    let mut out = Vec::new();
    for (index, route) in spec.http.iter().enumerate() {
        let field = format!("spec.http[{index}]");
        let route = with_whole_names(route, sources.hosts, name);
        let Some(delegate) = &route.delegate else {
            out.push(Route { spec: route, name: name.clone(), field });
            continue;
        };
        let namespace = if delegate.namespace.is_empty() { &name.namespace } else { delegate.namespace.as_str() };
        let to = Name::new(namespace, &delegate.name);
        let mut missing = |text: String| {
            let field = format!("{field}.delegate");
            report.tell(key(name), Message::new(Level::Error, Code::TargetNotFound, field, text));
        };
        let Some(found) = sources.objects.virtual_services.get(&to).filter(|found| found.spec.hosts.is_empty()) else {
            missing(format!("there is no VirtualService {namespace}/{} without hosts (IST0101)", delegate.name));
            continue;
        };
        let exports = Exports::of(&found.spec.export_to, &sources.mesh.virtual_service_exports, &to.namespace);
        if !exports.include(&name.namespace) {
            missing(format!("VirtualService {namespace}/{} is not exported to {}", delegate.name, name.namespace));
            continue;
        }
        for (index, sub) in found.spec.http.iter().enumerate() {
            let at = format!("spec.http[{index}]");
            if let Some(route) = merged(&route, with_whole_names(sub, sources.hosts, &to)) {
                out.push(Route { spec: route, name: to.clone(), field: at });
            } else {
                let text = format!("matches nothing that {} delegates: the route is left out", key(name));
                report.tell(key(&to), Message::new(Level::Error, Code::Conflict, format!("{at}.match"), text));
            }
        }
    }
    out
}

fn with_whole_names(route: &HttpRoute, hosts: &Hosts<'_>, name: &Name) -> HttpRoute {
    let mut route = route.clone();
    let destinations = route.route.iter_mut().filter_map(|found| found.destination.as_mut());
    let mirrors = route.mirrors.iter_mut().filter_map(|found| found.destination.as_mut());
    for Destination { host, .. } in destinations.chain(mirrors).chain(route.mirror.as_mut()) {
        *host = hosts.full(host, &name.namespace);
    }
    route
}

/// The delegate's route, with what it leaves unsaid taken from the root's; None: no request could match both.
fn merged(root: &HttpRoute, delegate: HttpRoute) -> Option<HttpRoute> {
    Some(HttpRoute {
        matches: merged_matches(&root.matches, delegate.matches)?,
        name: joined(&root.name, &delegate.name),
        rewrite: delegate.rewrite.or_else(|| root.rewrite.clone()),
        direct_response: delegate.direct_response.or_else(|| root.direct_response.clone()),
        timeout: delegate.timeout.or(root.timeout),
        retries: delegate.retries.or_else(|| root.retries.clone()),
        fault: delegate.fault.or_else(|| root.fault.clone()),
        mirror: delegate.mirror.or_else(|| root.mirror.clone()),
        mirrors: if delegate.mirrors.is_empty() { root.mirrors.clone() } else { delegate.mirrors },
        mirror_percent: delegate.mirror_percent.or(root.mirror_percent),
        mirror_percentage: delegate.mirror_percentage.or(root.mirror_percentage),
        cors_policy: delegate.cors_policy.or_else(|| root.cors_policy.clone()),
        headers: delegate.headers.or_else(|| root.headers.clone()),
        route: delegate.route,
        redirect: delegate.redirect,
        delegate: None,
    })
}

fn joined(root: &str, delegate: &str) -> String {
    match (root, delegate) {
        ("", only) | (only, "") => only.to_owned(),
        (root, delegate) => format!("{root}-{delegate}"),
    }
}

fn merged_matches(root: &[HttpMatchRequest], delegate: Vec<HttpMatchRequest>) -> Option<Vec<HttpMatchRequest>> {
    if root.is_empty() || delegate.is_empty() {
        return Some(if root.is_empty() { delegate } else { root.to_vec() });
    }
    let mut out = Vec::new();
    for sub in &delegate {
        let before = out.len();
        out.extend(root.iter().filter(|root| !conflict(root, sub)).map(|root| merged_match(root, sub)));
        if out.len() == before {
            return None;
        }
    }
    Some(out)
}

fn merged_match(root: &HttpMatchRequest, sub: &HttpMatchRequest) -> HttpMatchRequest {
    let either = |root: &Option<StringMatch>, sub: &Option<StringMatch>| sub.clone().or_else(|| root.clone());
    let text = |root: &String, sub: &String| if sub.is_empty() { root.clone() } else { sub.clone() };
    HttpMatchRequest {
        name: joined(&root.name, &sub.name),
        uri: either(&root.uri, &sub.uri),
        scheme: either(&root.scheme, &sub.scheme),
        method: either(&root.method, &sub.method),
        authority: either(&root.authority, &sub.authority),
        headers: both(&root.headers, &sub.headers),
        without_headers: both(&root.without_headers, &sub.without_headers),
        query_params: both(&root.query_params, &sub.query_params),
        source_labels: both(&root.source_labels, &sub.source_labels),
        port: if sub.port == 0 { root.port } else { sub.port },
        source_namespace: text(&root.source_namespace, &sub.source_namespace),
        gateways: if sub.gateways.is_empty() { root.gateways.clone() } else { sub.gateways.clone() },
        stat_prefix: text(&root.stat_prefix, &sub.stat_prefix),
        ignore_uri_case: sub.ignore_uri_case,
    }
}

fn both<V: Clone>(root: &BTreeMap<String, V>, sub: &BTreeMap<String, V>) -> BTreeMap<String, V> {
    root.iter().chain(sub).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn conflict(root: &HttpMatchRequest, sub: &HttpMatchRequest) -> bool {
    let texts = [
        (root.uri.as_ref(), sub.uri.as_ref()),
        (root.scheme.as_ref(), sub.scheme.as_ref()),
        (root.method.as_ref(), sub.method.as_ref()),
        (root.authority.as_ref(), sub.authority.as_ref()),
    ];
    let keyed =
        [(&root.headers, &sub.headers), (&root.without_headers, &sub.without_headers), (&root.query_params, &sub.query_params)];
    texts.into_iter().any(|(root, sub)| outside(root, sub))
        || keyed.into_iter().any(|(root, sub)| sub.iter().any(|(key, value)| outside(root.get(key), Some(value))))
        || root.ignore_uri_case != sub.ignore_uri_case
        || (root.port != 0 && sub.port != 0 && root.port != sub.port)
        || (!root.source_namespace.is_empty()
            && root.source_namespace != sub.source_namespace
            && !sub.source_namespace.is_empty())
        || sub.source_labels.iter().any(|(key, value)| root.source_labels.get(key).is_some_and(|other| other != value))
        || (!root.gateways.is_empty() && !sub.gateways.iter().all(|gateway| root.gateways.contains(gateway)))
}

/// Whether the delegate's condition is not one within the root's. Regular expressions are within nothing.
fn outside(root: Option<&StringMatch>, sub: Option<&StringMatch>) -> bool {
    let (Some(root), Some(sub)) = (root, sub) else { return false };
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (root_exact, root_prefix, root_regex) = (said(&root.exact), said(&root.prefix), said(&root.regex));
    let (sub_exact, sub_prefix, sub_regex) = (said(&sub.exact), said(&sub.prefix), said(&sub.regex));
    if root_regex.is_some() || sub_regex.is_some() {
        return true;
    }
    match (root_exact, root_prefix) {
        (Some(exact), _) => sub_prefix.is_some() || sub_exact.as_ref() != Some(&exact),
        (None, Some(prefix)) => !sub_prefix.or(sub_exact).is_some_and(|text| text.starts_with(&prefix)),
        (None, None) => true,
    }
}
