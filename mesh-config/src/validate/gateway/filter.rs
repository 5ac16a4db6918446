//! Filters of HTTPRoute and GRPCRoute.

use std::collections::HashSet;

use super::{at_most, is_host, reference};
use crate::{
    kinds::gateway::{
        BackendObject, CorsFilter, Filter, FilterType, Fraction, HeaderFilter, MirrorFilter, PathModifier, PathModifierType,
        RedirectFilter, RewriteFilter,
    },
    translate::gateway::values::{header_name, header_value, is_token, origin},
    validate::problem::{Cause, Problem},
};

const FILTERS: usize = 16;
const HEADERS: usize = 16;

/// Where filters stand.
pub(super) enum Place {
    /// `prefixes_only`: every match of the rule is by a prefix of the path.
    HttpRule {
        prefixes_only: bool,
    },
    HttpBackend {
        prefixes_only: bool,
    },
    Grpc,
}

pub(super) fn filters(at: &str, filters: &[Filter], place: &Place) -> Vec<Problem> {
    let mut problems = at_most(at, filters.len(), FILTERS);
    let mut seen = HashSet::new();
    for (index, filter) in filters.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let repeatable = matches!(filter.r#type, FilterType::RequestMirror | FilterType::ExtensionRef);
        if !seen.insert(filter.r#type) && !repeatable {
            problems.push(Problem::new(format!("{at}.type"), Cause::Duplicate { found: format!("{:?}", filter.r#type) }));
        }
        problems.extend(one(&at, filter, place));
    }
    if seen.contains(&FilterType::UrlRewrite) && seen.contains(&FilterType::RequestRedirect) {
        problems.push(Problem::new(at, Cause::Exclusive { other: "one another: RequestRedirect and URLRewrite" }));
    }
    problems
}

fn one(at: &str, filter: &Filter, place: &Place) -> Vec<Problem> {
    let Filter {
        r#type,
        request_header_modifier,
        response_header_modifier,
        request_mirror,
        request_redirect,
        url_rewrite,
        cors,
        external_auth,
        extension_ref,
    } = filter;
    let prefixes_only = match place {
        Place::HttpRule { prefixes_only } | Place::HttpBackend { prefixes_only } => *prefixes_only,
        Place::Grpc => true,
    };
    let mut problems = Vec::new();
    let of_http =
        matches!(r#type, FilterType::RequestRedirect | FilterType::UrlRewrite | FilterType::Cors | FilterType::ExternalAuth);
    if of_http && matches!(place, Place::Grpc) {
        problems.push(Problem::new(format!("{at}.type"), Cause::form(format!("{type:?}"), "a filter of GRPCRoute")));
    }
    let parts = [
        (FilterType::RequestHeaderModifier, "requestHeaderModifier", request_header_modifier.is_some()),
        (FilterType::ResponseHeaderModifier, "responseHeaderModifier", response_header_modifier.is_some()),
        (FilterType::RequestMirror, "requestMirror", request_mirror.is_some()),
        (FilterType::RequestRedirect, "requestRedirect", request_redirect.is_some()),
        (FilterType::UrlRewrite, "urlRewrite", url_rewrite.is_some()),
        (FilterType::Cors, "cors", cors.is_some()),
        (FilterType::ExternalAuth, "externalAuth", external_auth.is_some()),
        (FilterType::ExtensionRef, "extensionRef", extension_ref.is_some()),
    ];
    for (wanted, name, there) in parts {
        if there != (wanted == *r#type) {
            let cause = if there { Cause::Exclusive { other: "another type of filter" } } else { Cause::Missing };
            problems.push(Problem::new(format!("{at}.{name}"), cause));
        }
    }
    let headers = [("requestHeaderModifier", request_header_modifier), ("responseHeaderModifier", response_header_modifier)];
    for (name, found) in headers {
        problems.extend(found.as_ref().map(|found| header_filter(&format!("{at}.{name}"), found)).unwrap_or_default());
    }
    problems.extend(request_mirror.as_ref().map(|found| mirror(&format!("{at}.requestMirror"), found)).unwrap_or_default());
    if let Some(found) = request_redirect {
        problems.extend(redirect(&format!("{at}.requestRedirect"), found, prefixes_only));
    }
    if let Some(RewriteFilter { hostname, path }) = url_rewrite {
        problems.extend(host(&format!("{at}.urlRewrite.hostname"), hostname.as_deref()));
        problems.extend(path.as_ref().and_then(|path| modifier(&format!("{at}.urlRewrite.path"), path, prefixes_only)));
    }
    problems.extend(cors.as_ref().map(|found| cors_filter(&format!("{at}.cors"), found)).unwrap_or_default());
    problems
}

fn header_filter(at: &str, filter: &HeaderFilter) -> Vec<Problem> {
    let HeaderFilter { set, add, remove } = filter;
    let mut problems = Vec::new();
    for (name, count) in [("set", set.len()), ("add", add.len()), ("remove", remove.len())] {
        problems.extend(at_most(&format!("{at}.{name}"), count, HEADERS));
    }
    let values = [("set", set), ("add", add)].into_iter().flat_map(|(name, headers)| {
        headers.iter().enumerate().map(move |(index, header)| (format!("{at}.{name}[{index}]"), header))
    });
    let mut names: Vec<(String, &String)> = Vec::new();
    for (field, header) in values {
        if header_value(&header.value).is_none() {
            problems.push(Problem::new(format!("{field}.value"), Cause::form(&header.value, "the value of a header")));
        }
        names.push((format!("{field}.name"), &header.name));
    }
    names.extend(remove.iter().enumerate().map(|(index, name)| (format!("{at}.remove[{index}]"), name)));
    let mut seen = HashSet::new();
    for (field, name) in names {
        match header_name(name) {
            None => problems.push(Problem::new(field, Cause::form(name, "the name of a header"))),
            Some(found) if !seen.insert(found.clone()) => {
                problems.push(Problem::new(field, Cause::Duplicate { found: found.to_string() }));
            }
            Some(_) => {}
        }
    }
    problems
}

fn mirror(at: &str, filter: &MirrorFilter) -> Vec<Problem> {
    let MirrorFilter { backend_ref: BackendObject { group, kind, name, namespace: _, port }, percent, fraction } = filter;
    let mut problems = reference(&format!("{at}.backendRef"), [group, kind, name], *port);
    if percent.is_some() && fraction.is_some() {
        problems.push(Problem::new(format!("{at}.percent"), Cause::Exclusive { other: "fraction" }));
    }
    if let Some(found) = percent.filter(|percent| *percent > 100) {
        problems.push(Problem::new(format!("{at}.percent"), Cause::form(found.to_string(), "a percentage (0 to 100)")));
    }
    if let Some(Fraction { numerator, denominator }) = fraction {
        let denominator = denominator.unwrap_or(100);
        if denominator == 0 || *numerator > denominator {
            let found = format!("{numerator}/{denominator}");
            problems.push(Problem::new(format!("{at}.fraction"), Cause::form(found, "a fraction from 0 to 1")));
        }
    }
    problems
}

fn redirect(at: &str, filter: &RedirectFilter, prefixes_only: bool) -> Vec<Problem> {
    let RedirectFilter { scheme, hostname, path, port, status_code } = filter;
    let mut problems: Vec<Problem> = host(&format!("{at}.hostname"), hostname.as_deref()).into_iter().collect();
    if let Some(scheme) = scheme.as_ref().filter(|scheme| !["http", "https"].contains(&scheme.as_str())) {
        problems.push(Problem::new(format!("{at}.scheme"), Cause::form(scheme, "`http` or `https`")));
    }
    problems.extend(path.as_ref().and_then(|path| modifier(&format!("{at}.path"), path, prefixes_only)));
    if *port == Some(0) {
        problems.push(Problem::new(format!("{at}.port"), Cause::form("0", "a port")));
    }
    if let Some(status) = status_code.filter(|status| ![301, 302, 303, 307, 308].contains(status)) {
        let cause = Cause::form(status.to_string(), "301, 302, 303, 307 or 308");
        problems.push(Problem::new(format!("{at}.statusCode"), cause));
    }
    problems
}

fn host(at: &str, name: Option<&str>) -> Option<Problem> {
    let name = name.filter(|name| !is_host(name))?;
    Some(Problem::new(at, Cause::form(name, "a host name without wildcard")))
}

fn modifier(at: &str, found: &PathModifier, prefixes_only: bool) -> Option<Problem> {
    let PathModifier { r#type, replace_full_path, replace_prefix_match } = found;
    let (own, other, name) = match r#type {
        PathModifierType::ReplaceFullPath => (replace_full_path, replace_prefix_match, "replaceFullPath"),
        PathModifierType::ReplacePrefixMatch => (replace_prefix_match, replace_full_path, "replacePrefixMatch"),
    };
    if other.is_some() {
        return Some(Problem::new(at, Cause::Exclusive { other: "another type of path modifier" }));
    }
    let at = format!("{at}.{name}");
    let Some(value) = own else { return Some(Problem::new(at, Cause::Missing)) };
    // What is written into a request line or a Location must not end it.
    if value.len() > 1024 || value.bytes().any(|byte| byte <= b' ' || byte == 0x7f || b"?#".contains(&byte)) {
        return Some(Problem::new(at, Cause::form(value, "a path of at most 1024 bytes, without spaces, '?' and '#'")));
    }
    if *r#type == PathModifierType::ReplaceFullPath && !value.starts_with('/') {
        return Some(Problem::new(at, Cause::form(value, "a path that begins with '/'")));
    }
    (*r#type == PathModifierType::ReplacePrefixMatch && !prefixes_only)
        .then(|| Problem::new(at, Cause::Exclusive { other: "matches of a type other than PathPrefix" }))
}

fn cors_filter(at: &str, filter: &CorsFilter) -> Vec<Problem> {
    let CorsFilter { allow_origins, allow_credentials: _, allow_methods, allow_headers, expose_headers, max_age } = filter;
    let mut problems = Vec::new();
    for (index, text) in allow_origins.iter().enumerate().filter(|(_, text)| origin(text).is_none()) {
        let cause = Cause::form(text, "an origin (`scheme://host[:port]`, where `*.` may begin the host, or `*`)");
        problems.push(Problem::new(format!("{at}.allowOrigins[{index}]"), cause));
    }
    for (name, values) in [("allowMethods", allow_methods), ("allowHeaders", allow_headers), ("exposeHeaders", expose_headers)] {
        for (index, text) in values.iter().enumerate().filter(|(_, text)| !is_token(text)) {
            problems.push(Problem::new(format!("{at}.{name}[{index}]"), Cause::form(text, "a token")));
        }
    }
    let lists = [("allowOrigins", allow_origins), ("allowMethods", allow_methods), ("allowHeaders", allow_headers)];
    for (name, values) in lists.into_iter().filter(|(_, values)| values.len() > 1 && values.iter().any(|value| value == "*")) {
        problems.push(Problem::new(format!("{at}.{name}"), Cause::form(values.join(", "), "`*` alone, or a list without it")));
    }
    if *max_age == Some(0) {
        problems.push(Problem::new(format!("{at}.maxAge"), Cause::form("0", "at least one second")));
    }
    problems
}
