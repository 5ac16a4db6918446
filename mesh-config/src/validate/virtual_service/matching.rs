//! Conditions on requests.

use http::HeaderName;
use mesh_policy::model::Pattern;

use super::{exclusive, one_of, source_namespace};
use crate::{
    kinds::virtual_service::{HttpMatchRequest, StringMatch},
    validate::{
        host::{gateways, labels, port},
        problem::{Cause, Problem},
    },
};

/// Longest pattern in characters; Istio's limit.
const PATTERN: usize = 1024;
/// The beginning of names that stand for claims of a token.
pub(super) const CLAIM: &str = "@request.auth.claims";

pub(super) fn request(at: &str, found: &HttpMatchRequest, at_gateway: bool, out: &mut Vec<Problem>) {
    let HttpMatchRequest { uri, scheme, method, authority, headers, query_params, without_headers, .. } = found;
    // The path may be matched by an empty prefix; the others may not.
    if let Some(uri) = uri {
        text(&format!("{at}.uri"), uri, true, out);
    }
    for (field, value) in [("scheme", scheme), ("method", method), ("authority", authority)] {
        if let Some(value) = value {
            text(&format!("{at}.{field}"), value, false, out);
        }
    }
    for (name, value) in headers {
        let at = format!("{at}.headers.{name}");
        match name.as_str() {
            ":method" | ":scheme" | ":authority" | ":path" => {}
            name => header_name(&at, name, at_gateway, out),
        }
        text(&at, value, false, out);
    }
    let pseudo = |name| headers.contains_key(name);
    let twice = [("headers.:method", pseudo(":method") && method.is_some())];
    exclusive(at, "method", &twice, out);
    exclusive(at, "scheme", &[("headers.:scheme", pseudo(":scheme") && scheme.is_some())], out);
    exclusive(at, "authority", &[("headers.:authority", pseudo(":authority") && authority.is_some())], out);
    exclusive(at, "uri", &[("headers.:path", pseudo(":path") && uri.is_some())], out);
    for (name, value) in without_headers {
        let at = format!("{at}.withoutHeaders.{name}");
        header_name(&at, name, at_gateway, out);
        text(&at, value, false, out);
    }
    for (name, value) in query_params {
        text(&format!("{at}.queryParams.{name}"), value, false, out);
    }
    if found.port != 0 {
        port(&format!("{at}.port"), found.port, out);
    }
    labels(&format!("{at}.sourceLabels"), &found.source_labels, out);
    gateways(&format!("{at}.gateways"), &found.gateways, out);
    source_namespace(at, &found.source_namespace, out);
}

fn header_name(at: &str, name: &str, at_gateway: bool, out: &mut Vec<Problem>) {
    if name.starts_with(CLAIM) {
        if !at_gateway {
            out.push(Problem::new(at, Cause::form(name, "a header: routing by claims is for gateways")));
        }
    } else if HeaderName::try_from(name).is_err() {
        out.push(Problem::new(at, Cause::form(name, "the name of a header")));
    }
}

/// One of exact, prefix and regex, or none; `*` as a regular expression is presence.
pub(super) fn text(at: &str, found: &StringMatch, empty_prefix: bool, out: &mut Vec<Problem>) {
    let StringMatch { exact, prefix, regex } = found;
    one_of(at, &[("exact", exact.is_some()), ("prefix", prefix.is_some()), ("regex", regex.is_some())], out);
    if !empty_prefix && prefix.as_deref() == Some("") {
        out.push(Problem::new(format!("{at}.prefix"), Cause::Empty));
    }
    if let Some(regex) = regex.as_deref().filter(|regex| *regex != "*") {
        pattern(&format!("{at}.regex"), regex, out);
    }
}

pub(super) fn pattern(at: &str, regex: &str, out: &mut Vec<Problem>) {
    let cause = if regex.is_empty() {
        Cause::Empty
    } else if regex.len() > PATTERN {
        Cause::form(&regex[..regex.floor_char_boundary(64)], "a regular expression of at most 1024 bytes")
    } else {
        match Pattern::new(regex) {
            Ok(_) => return,
            Err(error) => Cause::Type { message: error.to_string() },
        }
    };
    out.push(Problem::new(at, cause));
}
