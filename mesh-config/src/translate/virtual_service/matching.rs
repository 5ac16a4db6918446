//! Conditions on requests (Istio's `TranslateRouteMatch`).

use std::collections::BTreeMap;

use mesh_policy::model::{ClientMatch, HeaderMatch, HttpMatch, PathMatch, Pattern, QueryMatch, TextMatch, header::Name};

use super::in_mesh;
use crate::kinds::virtual_service::{HttpMatchRequest, StringMatch};

/// None: it bears on other ports or gateways, or could never hold in the mesh.
pub(super) fn request(found: &HttpMatchRequest, port: u16) -> Option<HttpMatch> {
    let HttpMatchRequest {
        name,
        uri,
        scheme,
        method,
        authority,
        headers,
        port: only,
        source_labels,
        gateways,
        query_params,
        ignore_uri_case,
        without_headers,
        source_namespace,
        // Names metrics of Envoy that do not exist here.
        stat_prefix: _,
    } = found;
    if !in_mesh(gateways) || !(*only == 0 || *only == u32::from(port)) {
        return None;
    }
    // Nothing in the mesh has judged a token on the way to a route.
    if headers.keys().any(|name| name.starts_with('@')) {
        return None;
    }
    let pseudo = |name: &str| headers.get(name);
    let mut conditions = HttpMatch {
        name: name.as_str().into(),
        path: uri.as_ref().or(pseudo(":path")).and_then(path),
        ignore_path_case: *ignore_uri_case,
        method: method.as_ref().or(pseudo(":method")).and_then(some_text),
        scheme: scheme.as_ref().or(pseudo(":scheme")).and_then(some_text).map(lower_case),
        authority: authority.as_ref().or(pseudo(":authority")).and_then(some_text).map(host),
        clients: clients(source_namespace, source_labels),
        ..HttpMatch::default()
    };
    conditions.headers = header_matches(headers);
    conditions.without_headers = header_matches(without_headers);
    let query = |(name, value): (&String, &StringMatch)| Some(QueryMatch { name: name.as_str().into(), value: text(value)? });
    conditions.query = query_params.iter().filter_map(query).collect();
    Some(conditions)
}

pub(super) fn clients(namespace: &str, labels: &BTreeMap<String, String>) -> Vec<ClientMatch> {
    if namespace.is_empty() && labels.is_empty() {
        return Vec::new();
    }
    let namespace = Some(namespace).filter(|namespace| !namespace.is_empty()).map(Into::into);
    let labels = labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect();
    vec![ClientMatch { namespace, labels }]
}

/// None: every path.
fn path(found: &StringMatch) -> Option<PathMatch> {
    let StringMatch { exact, prefix, regex } = found;
    if let Some(exact) = exact {
        return Some(PathMatch::Exact(exact.as_str().into()));
    }
    if let Some(prefix) = prefix.as_ref().filter(|prefix| !prefix.is_empty()) {
        return Some(PathMatch::Prefix(prefix.as_str().into()));
    }
    regex.as_ref().filter(|regex| *regex != "*").and_then(|regex| Pattern::new(regex).ok()).map(PathMatch::Regex)
}

/// Presence is no condition on what is always there.
fn some_text(found: &StringMatch) -> Option<TextMatch> {
    text(found).filter(|found| *found != TextMatch::Present)
}

/// `*` as a regular expression, and nothing at all, are presence. None: no pattern, which validation has refused.
pub(super) fn text(found: &StringMatch) -> Option<TextMatch> {
    let StringMatch { exact, prefix, regex } = found;
    match (exact, prefix, regex.as_deref()) {
        (Some(exact), _, _) => Some(TextMatch::Exact(exact.as_str().into())),
        (None, Some(prefix), _) => Some(TextMatch::Prefix(prefix.as_str().into())),
        (None, None, None | Some("*")) => Some(TextMatch::Present),
        (None, None, Some(regex)) => Pattern::new(regex).ok().map(TextMatch::Regex),
    }
}

fn lower_case(found: TextMatch) -> TextMatch {
    match found {
        TextMatch::Exact(text) => TextMatch::Exact(text.to_ascii_lowercase().into()),
        TextMatch::Prefix(text) => TextMatch::Prefix(text.to_ascii_lowercase().into()),
        other => other,
    }
}

/// Hosts are compared without their port.
fn host(found: TextMatch) -> TextMatch {
    match lower_case(found) {
        TextMatch::Exact(text) => match text.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() && !host.ends_with(':') => TextMatch::Exact(host.into()),
            Some(_) | None => TextMatch::Exact(text),
        },
        other => other,
    }
}

fn header_matches(found: &BTreeMap<String, StringMatch>) -> Vec<HeaderMatch> {
    let ordinary = found.iter().filter(|(name, _)| !name.starts_with([':', '@']));
    ordinary.filter_map(|(name, value)| Some(HeaderMatch { name: Name(name.parse().ok()?), value: text(value)? })).collect()
}
